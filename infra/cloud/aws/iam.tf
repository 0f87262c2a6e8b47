# Permissions in AWS. Pods have roles of their own, bound to one service account each (IRSA); nodes cannot access
# the data. The endpoint has no role: it reads models through MLflow.
data "aws_iam_policy_document" "assumed_by" {
  for_each = { cluster = "eks.amazonaws.com", node = "ec2.amazonaws.com", pod = "pods.eks.amazonaws.com" }
  statement {
    actions = each.key == "pod" ? ["sts:AssumeRole", "sts:TagSession"] : ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = [each.value]
    }
  }
}

locals {
  managed = "arn:${data.aws_partition.current.partition}:iam::aws:policy"
}

resource "aws_iam_role" "cluster" {
  name               = "${var.name}-cluster"
  assume_role_policy = data.aws_iam_policy_document.assumed_by["cluster"].json
}

resource "aws_iam_role_policy_attachment" "cluster" {
  role       = aws_iam_role.cluster.name
  policy_arn = "${local.managed}/AmazonEKSClusterPolicy"
}

resource "aws_iam_role" "node" {
  name               = "${var.name}-node"
  assume_role_policy = data.aws_iam_policy_document.assumed_by["node"].json
}

resource "aws_iam_role_policy_attachment" "node" {
  for_each   = toset(["AmazonEKSWorkerNodePolicy", "AmazonEC2ContainerRegistryPullOnly", "AmazonEKS_CNI_Policy"])
  role       = aws_iam_role.node.name
  policy_arn = "${local.managed}/${each.value}"
}

resource "aws_iam_role" "volumes" {
  name               = "${var.name}-volumes"
  assume_role_policy = data.aws_iam_policy_document.assumed_by["pod"].json
}

resource "aws_iam_role_policy_attachment" "volumes" {
  role       = aws_iam_role.volumes.name
  policy_arn = "${local.managed}/service-role/AmazonEBSCSIDriverPolicy"
}

resource "aws_iam_openid_connect_provider" "cluster" {
  url            = aws_eks_cluster.this.identity[0].oidc[0].issuer
  client_id_list = ["sts.amazonaws.com"]
}

locals {
  issuer = trimprefix(aws_eks_cluster.this.identity[0].oidc[0].issuer, "https://")

  # Service account -> bucket -> what it may do there.
  pod_rights = {
    sdavs-train = { data = ["s3:GetObject"], results = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"] }
    mlflow      = { artifacts = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"] }
  }
}

data "aws_iam_policy_document" "pod_assumes" {
  for_each = local.pod_rights
  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]
    principals {
      type        = "Federated"
      identifiers = [aws_iam_openid_connect_provider.cluster.arn]
    }
    condition {
      test     = "StringEquals"
      variable = "${local.issuer}:sub"
      values   = ["system:serviceaccount:sdavs:${each.key}"]
    }
    condition {
      test     = "StringEquals"
      variable = "${local.issuer}:aud"
      values   = ["sts.amazonaws.com"]
    }
  }
}

data "aws_iam_policy_document" "pod" {
  for_each = local.pod_rights

  statement {
    actions   = ["s3:ListBucket", "s3:GetBucketLocation"]
    resources = [for bucket, _ in each.value : aws_s3_bucket.this[bucket].arn]
  }

  dynamic "statement" {
    for_each = each.value
    content {
      actions   = concat(statement.value, contains(statement.value, "s3:PutObject") ? ["s3:AbortMultipartUpload"] : [])
      resources = ["${aws_s3_bucket.this[statement.key].arn}/*"]
    }
  }

  statement {
    actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
    resources = [aws_kms_key.this.arn]
    condition {
      test     = "StringEquals"
      variable = "kms:ViaService"
      values   = ["s3.${var.region}.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "pod" {
  for_each           = local.pod_rights
  name               = startswith(each.key, var.name) ? each.key : "${var.name}-${each.key}"
  assume_role_policy = data.aws_iam_policy_document.pod_assumes[each.key].json
}

resource "aws_iam_role_policy" "pod" {
  for_each = local.pod_rights
  name     = "buckets"
  role     = aws_iam_role.pod[each.key].id
  policy   = data.aws_iam_policy_document.pod[each.key].json
}
