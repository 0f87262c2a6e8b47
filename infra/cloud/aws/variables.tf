# The inputs of the module; terraform.tfvars.example is an example.
variable "name" {
  description = "Prefix of every name."
  type        = string
  default     = "sdavs"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,20}$", var.name))
    error_message = "name: 2 to 21 lower-case letters, digits and hyphens, a letter first; it begins bucket names."
  }
}

variable "region" {
  description = "AWS region."
  type        = string
}

variable "tags" {
  description = "Further tags of every resource."
  type        = map(string)
  default     = {}
}

variable "vpc_id" {
  description = "An existing VPC."
  type        = string
}

variable "private_subnet_ids" {
  description = "Subnets of that VPC without public addresses, in at least two zones, with a way out (NAT or endpoints)."
  type        = list(string)

  validation {
    condition     = length(var.private_subnet_ids) >= 2
    error_message = "private_subnet_ids: EKS and RDS need subnets in at least two zones."
  }
}

variable "api_access_cidrs" {
  description = "From where Kubernetes' API may be reached over the internet. Empty: from inside the VPC alone."
  type        = list(string)
  default     = []

  validation {
    condition     = !contains(var.api_access_cidrs, "0.0.0.0/0")
    error_message = "api_access_cidrs: the whole internet is not allowed; name your networks."
  }
}

# Without a default: EKS knows no administrator but these, and whoever runs Terraform (CI, say) shall not be one unasked.
variable "admin_role_arns" {
  description = "IAM roles that administer the cluster, at least one; that of whoever applies the manifests among them."
  type        = list(string)

  validation {
    condition = length(var.admin_role_arns) > 0 && alltrue([
      for arn in var.admin_role_arns : can(regex("^arn:[a-z-]+:iam::[0-9]{12}:role/.+$", arn))
    ])
    error_message = "admin_role_arns: at least one arn:aws:iam::ACCOUNT:role/NAME, or nobody could reach Kubernetes; sessions (arn:aws:sts:..:assumed-role/..) and users are no roles."
  }
}

variable "kubernetes_version" {
  description = "EKS version."
  type        = string
  default     = "1.33"
}

variable "system_instance_types" {
  description = "For Ray's heads, MLflow, Redis and operators."
  type        = list(string)
  default     = ["m6i.2xlarge"]
}

variable "train_instance_types" {
  description = "For trainings, one GPU each with 8 vCPUs and 32 GiB (a worker asks for 7 and 28). Several types make spot nodes easier to get."
  type        = list(string)
  default     = ["g6.2xlarge", "g5.2xlarge"]
}

variable "serve_instance_types" {
  description = "For the endpoint, as above; on demand."
  type        = list(string)
  default     = ["g6.2xlarge"]
}

variable "max_train_spot_nodes" {
  description = "Most spot nodes for trainings."
  type        = number
  default     = 8
}

variable "max_train_on_demand_nodes" {
  description = "Most on-demand nodes for trainings, where no spot node can be had."
  type        = number
  default     = 2
}

variable "serve_nodes" {
  description = "Fewest and most nodes of the endpoint."
  type        = object({ min = number, max = number })
  default     = { min = 2, max = 6 }

  validation {
    condition     = var.serve_nodes.min >= 1 && var.serve_nodes.max >= var.serve_nodes.min
    error_message = "serve_nodes: min from 1, max from min."
  }
}

variable "checkpoint_days" {
  description = "Days after which checkpoints are deleted. Registered models are not checkpoints and stay."
  type        = number
  default     = 60
}

variable "database_instance_class" {
  description = "RDS instance of MLflow."
  type        = string
  default     = "db.t4g.medium"
}

variable "database_backup_days" {
  description = "Days that the database can be restored to any moment of."
  type        = number
  default     = 14
}
