# Plans the module against mocked AWS responses: no account, no network.   terraform test
mock_provider "aws" {
  mock_data "aws_caller_identity" {
    defaults = { account_id = "111122223333" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{\"Version\":\"2012-10-17\",\"Statement\":[]}" }
  }
  mock_resource "aws_eks_cluster" {
    defaults = {
      identity   = [{ oidc = [{ issuer = "https://oidc.eks.example.com/id/ABC" }] }]
      vpc_config = { cluster_security_group_id = "sg-0123456789abcdef0" }
    }
  }
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::111122223333:role/made-up" }
  }
  mock_resource "aws_kms_key" {
    defaults = { arn = "arn:aws:kms:eu-central-1:111122223333:key/made-up" }
  }
  mock_resource "aws_iam_openid_connect_provider" {
    defaults = { arn = "arn:aws:iam::111122223333:oidc-provider/made-up" }
  }
  mock_resource "aws_launch_template" {
    defaults = { id = "lt-0123456789abcdef0", latest_version = 1 }
  }
  mock_resource "aws_db_instance" {
    defaults = {
      address            = "sdavs.example.rds.amazonaws.com"
      master_user_secret = [{ secret_arn = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:made-up" }]
    }
  }
}

variables {
  region             = "eu-central-1"
  vpc_id             = "vpc-0123456789abcdef0"
  private_subnet_ids = ["subnet-0aaaaaaaaaaaaaaaa", "subnet-0bbbbbbbbbbbbbbbb"]
  admin_role_arns    = ["arn:aws:iam::111122223333:role/platform-admin"]
}

run "everything_is_closed_and_encrypted_by_default" {
  command = apply

  assert {
    condition     = !aws_eks_cluster.this.vpc_config[0].endpoint_public_access
    error_message = "Kubernetes' API is reachable from the internet although no network was named."
  }
  assert {
    condition     = alltrue([for block in aws_s3_bucket_public_access_block.this : block.restrict_public_buckets])
    error_message = "A bucket can be made public."
  }
  assert {
    condition     = aws_db_instance.mlflow.storage_encrypted && !aws_db_instance.mlflow.publicly_accessible
    error_message = "The database is not encrypted, or public."
  }
  assert {
    condition     = alltrue([for node in aws_launch_template.node : node.metadata_options[0].http_tokens == "required" && node.metadata_options[0].http_put_response_hop_limit == 1])
    error_message = "A pod could take its node's rights."
  }
}

run "the_named_roles_and_nobody_else_administer_kubernetes" {
  command = apply

  assert {
    condition     = toset([for entry in aws_eks_access_policy_association.admin : entry.principal_arn]) == toset(var.admin_role_arns)
    error_message = "Not the named roles administer the cluster."
  }
  assert {
    condition     = alltrue([for entry in aws_eks_access_policy_association.admin : endswith(entry.policy_arn, "/AmazonEKSClusterAdminPolicy") && entry.access_scope[0].type == "cluster"])
    error_message = "An administrator has not the whole cluster."
  }
  assert {
    condition     = !aws_eks_cluster.this.access_config[0].bootstrap_cluster_creator_admin_permissions
    error_message = "Whoever ran Terraform administers the cluster, too."
  }
}

run "gpu_nodes_carry_what_the_manifests_ask_for" {
  command = apply

  assert {
    condition     = aws_eks_node_group.this["train-spot"].labels["sdavs/pool"] == "train" && aws_eks_node_group.this["train-spot"].capacity_type == "SPOT"
    error_message = "The spot group is not for trainings."
  }
  assert {
    condition     = aws_eks_node_group.this["train-spot"].scaling_config[0].min_size == 0
    error_message = "Spot nodes are kept although nothing trains."
  }
  assert {
    condition     = contains([for taint in aws_eks_node_group.this["serve"].taint : taint.key], "nvidia.com/gpu")
    error_message = "Anything could take the endpoint's GPUs."
  }
}

run "checkpoints_expire_and_models_do_not" {
  command = apply

  assert {
    condition     = anytrue([for rule in aws_s3_bucket_lifecycle_configuration.this["results"].rule : rule.id == "checkpoints"])
    error_message = "Checkpoints are kept for ever."
  }
  assert {
    condition     = alltrue([for rule in aws_s3_bucket_lifecycle_configuration.this["artifacts"].rule : rule.id != "checkpoints"])
    error_message = "Registered models would be deleted."
  }
}

run "the_whole_internet_is_refused" {
  command = plan

  variables {
    api_access_cidrs = ["0.0.0.0/0"]
  }
  expect_failures = [var.api_access_cidrs]
}

run "a_cluster_without_administrators_is_refused" {
  command = plan

  variables {
    admin_role_arns = []
  }
  expect_failures = [var.admin_role_arns]
}

run "a_session_is_no_administrator" {
  command = plan

  variables {
    admin_role_arns = ["arn:aws:sts::111122223333:assumed-role/platform-admin/me"]
  }
  expect_failures = [var.admin_role_arns]
}
