//! An activator as a process of its own: its log, and memory that nobody else uses.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex},
};

use crds::{
    control::{PodState, ToActivator},
    names::FunctionKey,
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStdout, Command},
};

use super::{
    backend::Backend,
    client, eventually,
    operator::{Operator, bound},
    told,
    world::{free_port, token_file},
};

/// A running activator that knows the Function `shop/hello`.
pub(crate) struct Process {
    /// The Function's own port.
    pub(crate) address: SocketAddr,
    pub(crate) gateway: SocketAddr,
    pub(crate) operator: Operator,
    pub(crate) control: SocketAddr,
    admin: SocketAddr,
    lines: Arc<Mutex<Vec<Value>>>,
    /// Ends with this.
    _child: Child,
}

impl Process {
    /// Starts one with `flags` beside those that every test needs.
    pub(crate) async fn start(flags: &[&str]) -> Self {
        let token_file = token_file();
        let mut child = Command::new(env!("CARGO_BIN_EXE_activator"))
            .args([
                "--gateway-listen=127.0.0.1:0",
                "--control-listen=127.0.0.1:0",
            ])
            .args([
                "--admin-listen=127.0.0.1:0",
                "--function-listen-ip=127.0.0.1",
            ])
            .args(["--pod-name=activator-0", "--cores=2"])
            .arg(option("--control-token-file", &token_file))
            .args(flags)
            .env_remove("EBB_LOG")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines: Arc<Mutex<Vec<Value>>> = Arc::default();
        let output = child.stdout.take().unwrap();
        tokio::spawn(read(output, Arc::clone(&lines)));
        let started = eventually("it has started", async || {
            let lines = lines.lock().unwrap();
            let mut lines = lines.iter();
            lines.find(|l| l["message"] == "activator started").cloned()
        })
        .await;
        let address = |name: &str| started[name].as_str().unwrap().parse().unwrap();
        let mut operator = Operator::connect(address("control")).await;
        let route = told::route(&FunctionKey::new("shop", "hello"), free_port());
        operator.tell(ToActivator::Route(route.clone())).await;
        let none = told::pods(&route.function).frame();
        operator.tell(none).await;
        operator.sync(Some(1)).await;
        operator.hears("the port is bound", bound).await;
        Self {
            address: (IpAddr::from([127, 0, 0, 1]), route.port).into(),
            gateway: address("gateway"),
            control: address("control"),
            admin: address("admin"),
            operator,
            lines,
            _child: child,
        }
    }

    /// Tells that the Function has this pod.
    pub(crate) async fn serves(&mut self, backend: &Backend) {
        self.serves_at(backend.address).await;
    }

    /// The same with a pod at this address.
    pub(crate) async fn serves_at(&mut self, address: SocketAddr) {
        let pods = told::pods(&FunctionKey::new("shop", "hello"));
        let pods = pods.pod("a", address, PodState::Serving);
        self.operator.tell(pods.frame()).await;
    }

    /// The log lines that `pick` picks.
    pub(crate) fn logged(&self, pick: impl Fn(&Value) -> bool) -> Vec<Value> {
        let lines = self.lines.lock().unwrap();
        lines.iter().filter(|line| pick(line)).cloned().collect()
    }

    /// Waits for the log line that `pick` picks.
    pub(crate) async fn logs(&self, what: &str, pick: impl Fn(&Value) -> bool) -> Value {
        eventually(what, async || self.logged(&pick).into_iter().next()).await
    }

    /// The value of a metric, as its name and labels are written.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let answer = client::get(self.admin, "/metrics").await;
        let value = |line: &str| line.strip_prefix(name)?.trim().parse().ok();
        answer.text().lines().find_map(value).unwrap_or(0.0)
    }
}

fn option(name: &str, path: &Path) -> String {
    format!("{name}={}", path.display())
}

async fn read(output: ChildStdout, lines: Arc<Mutex<Vec<Value>>>) {
    let mut output = BufReader::new(output).lines();
    while let Ok(Some(line)) = output.next_line().await {
        let line = serde_json::from_str(&line).unwrap();
        lines.lock().unwrap().push(line);
    }
}
