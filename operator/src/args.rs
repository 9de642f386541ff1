//! Flags; each has an environment variable, which the chart sets.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};
use crds::scale::Scale;

use crate::scaler::policy::Scaling;

/// Ebb's operator.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the binary can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the operator.
    Run(Box<Run>),
    /// Prints the CustomResourceDefinition.
    Crd,
    /// Prints the reference of the Function API as Markdown.
    Reference,
    /// Writes the generated files of the source tree.
    Generate {
        /// Root of the source tree.
        #[arg(default_value = ".")]
        root: PathBuf,
    },
}

/// Flags of `operator run`.
#[derive(Clone, Debug, Args)]
pub struct Run {
    /// Address of the admin endpoint (/livez, /readyz, /metrics).
    #[arg(long, env = "EBB_ADMIN_LISTEN", default_value = "0.0.0.0:8902")]
    pub admin_listen: SocketAddr,
    /// Name of this pod; it identifies the replica in the lease.
    #[arg(long, env = "POD_NAME")]
    pub pod_name: String,
    /// Namespace of Ebb itself.
    #[arg(long, env = "POD_NAMESPACE")]
    pub namespace: String,
    /// Name of the lease that the leader holds.
    #[arg(long, env = "EBB_LEASE", default_value = "ebb-operator")]
    pub lease: String,
    /// Labels of activator pods.
    #[arg(
        long,
        env = "EBB_ACTIVATOR_SELECTOR",
        default_value = "app.kubernetes.io/component=activator"
    )]
    pub activator_selector: String,
    /// Control port of activators.
    #[arg(long, env = "EBB_ACTIVATOR_CONTROL_PORT", default_value_t = 8901)]
    pub activator_control_port: u16,
    /// File with the bearer token of the control streams.
    #[arg(long, env = "EBB_CONTROL_TOKEN_FILE")]
    pub control_token_file: PathBuf,
    /// File with the certificate, in PEM, of the activators' control ports; operators trust it alone, and it must be for the name
    /// activator.ebb.internal. Read again for each stream. Without it streams have no TLS.
    #[arg(long, env = "EBB_CONTROL_CERTIFICATE_FILE")]
    pub control_certificate_file: Option<PathBuf>,
    /// Whether Functions may have TLS, for which Secrets are read. Needs a control certificate, since private keys are sent to the activators.
    #[arg(long, env = "EBB_GATEWAY_TLS", default_value_t = false, action = clap::ArgAction::Set)]
    pub gateway_tls: bool,
    /// DNS domain of the cluster.
    #[arg(long, env = "EBB_CLUSTER_DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
    /// What holds for Functions that do not set it: `spec.scale` as JSON.
    #[arg(long, env = "EBB_SCALE_DEFAULTS", default_value = "{}", value_parser = scale)]
    pub scale_defaults: Scale,
    /// No Function gets more pods than this, whatever it asks for.
    #[arg(long, env = "EBB_SCALE_MAX", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub scale_max: u32,
    /// Logging.
    #[command(flatten)]
    pub telemetry: runtime::telemetry::Args,
}

impl Run {
    /// The cluster's defaults and limits.
    pub fn scaling(&self) -> Scaling {
        Scaling {
            defaults: self.scale_defaults.clone(),
            max: self.scale_max,
        }
    }
}

fn scale(json: &str) -> Result<Scale, String> {
    serde_json::from_str(json).map_err(|e| format!("not a spec.scale: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_of_the_scale_are_its_fields_as_json() {
        assert_eq!(scale(r#"{"target": 5}"#).map(|s| s.target), Ok(Some(5.0)));
        let refused =
            scale(r#"{"idleAfter": "soon"}"#).map_err(|e| e.starts_with("not a spec.scale"));
        assert_eq!(refused, Err(true));
    }
}
