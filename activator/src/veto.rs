//! Asking pods whether they may go (`scale.keepAliveProbe`): one can be busy without a request, with a job in the background for instance.

use std::{sync::Arc, time::Duration};

use crds::control::ToOperator;
use tokio::{net::TcpStream, task::JoinSet, time::timeout};

use crate::{function::Function, pod::Pod, probe};

/// Pods that are asked at once.
const AT_ONCE: usize = 16;

/// How long one is waited for. A pod that does not answer may go: it would be kept for ever otherwise.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks the draining pods of a drain that has come to its end, and tells the operators what they say.
pub(crate) async fn ask(function: Arc<Function>, path: String, drain: u64) {
    let mut pods = function.draining().into_iter();
    loop {
        let mut asked = JoinSet::new();
        for pod in pods.by_ref().take(AT_ONCE) {
            let path = path.clone();
            asked.spawn(async move { timeout(PATIENCE, is_busy(&pod, &path)).await });
        }
        if asked.is_empty() {
            break;
        }
        while let Some(answer) = asked.join_next().await {
            if matches!(answer, Ok(Ok(true))) {
                let key = function.key.clone();
                function.tell(&ToOperator::Busy {
                    function: key,
                    drain,
                });
                return;
            }
        }
    }
    // The drain may have been cancelled meanwhile, and requests may have come; then there is nothing to tell.
    if function.gate.drained() == Some(drain) {
        let key = function.key.clone();
        function.tell(&ToOperator::Drained {
            function: key,
            drain,
        });
    }
}

async fn is_busy(pod: &Pod, path: &str) -> bool {
    let Ok(stream) = TcpStream::connect(pod.pool.address()).await else {
        return false;
    };
    probe::get(stream, pod, path, &[]).await == Some(200)
}
