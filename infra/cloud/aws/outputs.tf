# The values for infra/kuberay/overlays/production/kustomization.yaml.
output "kubeconfig_command" {
  description = "Gives kubectl access."
  value       = "aws eks update-kubeconfig --region ${var.region} --name ${aws_eks_cluster.this.name}"
}

output "platform" {
  description = "Literals of the overlay's `platform` ConfigMap."
  value = {
    PGHOST                       = aws_db_instance.mlflow.address
    PGUSER                       = aws_db_instance.mlflow.username
    AWS_REGION                   = var.region
    MLFLOW_ARTIFACTS_DESTINATION = "s3://${aws_s3_bucket.this["artifacts"].id}/mlflow"
    DATA_URI                     = "s3://${aws_s3_bucket.this["data"].id}"
    RESULTS_URI                  = "s3://${aws_s3_bucket.this["results"].id}/runs"
  }
}

output "roles" {
  description = "The overlay's `values`: train-role and mlflow-role."
  value       = { for account, role in aws_iam_role.pod : account => role.arn }
}

output "database_secret_arn" {
  description = "Where RDS keeps the password: aws secretsmanager get-secret-value --secret-id ARN."
  value       = aws_db_instance.mlflow.master_user_secret[0].secret_arn
}
