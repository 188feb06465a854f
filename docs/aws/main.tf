# UNTESTED: what docs/aws.md says, in Terraform. Read it before you apply it.

terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.0"
    }
  }
}

variable "vpc_id" {
  type = string
}

variable "subnet_ids" {
  description = "Private subnets in at least two availability zones."
  type        = list(string)
}

variable "service_security_group_id" {
  description = "The security group of the service's containers or functions."
  type        = string
}

variable "replicas" {
  type    = number
  default = 2
}

locals {
  name = "tidegate-example"
}

resource "aws_security_group" "data" {
  name   = "${local.name}-data"
  vpc_id = var.vpc_id

  ingress {
    description     = "Postgres, from the service"
    from_port       = 5432
    to_port         = 5432
    protocol        = "tcp"
    security_groups = [var.service_security_group_id]
  }

  ingress {
    description     = "Redis, from the service"
    from_port       = 6379
    to_port         = 6379
    protocol        = "tcp"
    security_groups = [var.service_security_group_id]
  }
}

resource "aws_db_subnet_group" "this" {
  name       = local.name
  subnet_ids = var.subnet_ids
}

resource "aws_db_instance" "primary" {
  identifier                  = "${local.name}-primary"
  engine                      = "postgres"
  engine_version              = "16"
  instance_class              = "db.m6g.large"
  allocated_storage           = 100
  db_name                     = "shop"
  username                    = "owner"
  manage_master_user_password = true
  multi_az                    = true
  backup_retention_period     = 7 # replicas need backups
  db_subnet_group_name        = aws_db_subnet_group.this.name
  vpc_security_group_ids      = [aws_security_group.data.id]
  skip_final_snapshot         = false
  final_snapshot_identifier   = "${local.name}-last"
}

resource "aws_db_instance" "replica" {
  count                  = var.replicas
  identifier             = "${local.name}-replica-${count.index + 1}"
  replicate_source_db    = aws_db_instance.primary.identifier
  instance_class         = "db.m6g.large"
  vpc_security_group_ids = [aws_security_group.data.id]
  skip_final_snapshot    = true
}

resource "aws_elasticache_subnet_group" "this" {
  name       = local.name
  subnet_ids = var.subnet_ids
}

resource "aws_elasticache_parameter_group" "this" {
  name   = local.name
  family = "redis7"

  parameter {
    name  = "maxmemory-policy"
    value = "allkeys-lru"
  }
}

resource "aws_elasticache_replication_group" "this" {
  replication_group_id       = local.name
  description                = "Responses that nodes share"
  engine                     = "redis"
  node_type                  = "cache.m7g.large"
  num_cache_clusters         = 2
  automatic_failover_enabled = true
  transit_encryption_enabled = true
  parameter_group_name       = aws_elasticache_parameter_group.this.name
  subnet_group_name          = aws_elasticache_subnet_group.this.name
  security_group_ids         = [aws_security_group.data.id]
}

# Addresses for the service's environment. POSTGRES_PRIMARY_URL is that of an RDS Proxy, if there is one, or else the
# same as POSTGRES_LISTEN_URL. The passwords are missing here: keep the complete URLs in a secret.
output "POSTGRES_LISTEN_URL" {
  value = "postgres://app@${aws_db_instance.primary.endpoint}/shop"
}

output "POSTGRES_REPLICA_URL" {
  value = join(",", [for replica in aws_db_instance.replica : "postgres://app@${replica.endpoint}/shop"])
}

output "REDIS_URL" {
  value = "rediss://${aws_elasticache_replication_group.this.primary_endpoint_address}:6379/"
}
