//! Listening, and handing connections to cores.

use std::{
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    runtime::Handle,
    sync::Semaphore,
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    args::Args,
    connection,
    cores::Cores,
    files,
    metrics::Metrics,
    origin::{Networks, Origin},
    proxy::{Entry, Proxy},
};

/// Connections that the kernel completes before they are accepted. A burst of first requests must not see a lost SYN, which costs
/// a second; the kernel lowers it to `net.core.somaxconn`, 4096 by default.
const BACKLOG: u32 = 4096;

/// Pause after a failed accept, which mostly means that there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What all client connections share.
pub(crate) struct Server {
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) metrics: Arc<Metrics>,
    cores: Cores,
    /// The tasks that accept connections.
    pub(crate) listeners: TaskTracker,
    /// The tasks that serve them, and those they have become.
    pub(crate) connections: TaskTracker,
    /// No new connections; each open one ends with its present request.
    pub(crate) stop: CancellationToken,
    /// All connections end now.
    pub(crate) force: CancellationToken,
    places: Arc<Semaphore>,
    /// Clients that are proxies themselves.
    trusted: Networks,
}

impl Server {
    pub(crate) fn new(proxy: Arc<Proxy>, metrics: Arc<Metrics>, cores: Cores, args: &Args) -> Self {
        let connections = files::most_connections(args.max_connections, files::raise_limit());
        Self {
            // A connection that changes its protocol ends as HTTP and goes on as a tunnel.
            connections: proxy.tunnels.tasks.clone(),
            force: proxy.tunnels.force.clone(),
            proxy,
            metrics,
            cores,
            listeners: TaskTracker::new(),
            stop: CancellationToken::new(),
            places: Arc::new(Semaphore::new(connections.min(Semaphore::MAX_PERMITS))),
            trusted: args.trusted_proxies.clone(),
        }
    }

    pub(crate) fn origin(&self, client: IpAddr) -> Origin {
        let trusted = self.trusted.contain(client);
        Origin::new(client, trusted)
    }

    /// Whether connections end with their present request.
    pub(crate) fn stops(&self) -> bool {
        // Asking the token takes a lock, and whoever stops the server has it leave first.
        self.proxy.leaves() && self.stop.is_cancelled()
    }

    /// A listener in the reactor of the thread that accepts connections.
    ///
    /// # Errors
    /// Those of the system.
    pub(crate) fn listener(&self, listener: std::net::TcpListener) -> io::Result<TcpListener> {
        let _there = self.cores.only().map(Handle::enter);
        TcpListener::from_std(listener)
    }

    /// Spawns a task that accepts connections.
    pub(crate) fn accepts(
        &self,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        match self.cores.only() {
            Some(core) => self.listeners.spawn_on(task, core),
            None => self.listeners.spawn(task),
        }
    }

    /// Hands a connection to a core.
    fn serve(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr, entry: &Entry) {
        if self.proxy.pressure.is_high() {
            self.metrics.connections_refused.inc();
            return;
        }
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            self.metrics.connections_refused.inc();
            return;
        };
        let stream = match Accepted::on(stream, self.cores.only()) {
            Ok(stream) => stream,
            Err(error) => return tracing::debug!(%error, "client connection ended"),
        };
        let (server, entry) = (Arc::clone(self), entry.clone());
        self.cores.spawn(|core| {
            let serving = async move {
                let places = (place, core);
                if let Err(error) = connection::serve(server, stream, peer, places, entry).await {
                    tracing::debug!(%error, "client connection ended");
                }
            };
            self.connections.track_future(serving)
        });
    }
}

/// A connection that was accepted.
pub(crate) enum Accepted {
    /// Here it is served.
    Here(TcpStream),
    /// Out of this thread's reactor; the core that serves it puts it into its own.
    Elsewhere(std::net::TcpStream),
}

impl Accepted {
    fn on(stream: TcpStream, here: Option<&Handle>) -> io::Result<Self> {
        match here {
            Some(_) => Ok(Self::Here(stream)),
            None => stream.into_std().map(Self::Elsewhere),
        }
    }

    /// The connection, in the present core's reactor.
    pub(crate) fn stream(self) -> io::Result<TcpStream> {
        match self {
            Self::Here(stream) => Ok(stream),
            Self::Elsewhere(stream) => TcpStream::from_std(stream),
        }
    }
}

/// Listens on `address`.
///
/// # Errors
/// Those of the system.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Connections of a former listener on this port, still closing, are no obstacle.
    socket.set_reuseaddr(true)?;
    // The connections that are accepted inherit it.
    socket.set_nodelay(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Has the cores serve the connections that `listener` accepts; runs until dropped or the server stops.
pub(crate) async fn accept(listener: &TcpListener, entry: &Entry, server: &Arc<Server>) {
    let accepting = async {
        loop {
            // `accept` would have room for a place in a line of those who accept.
            match poll_fn(|cx| listener.poll_accept(cx)).await {
                Ok((stream, peer)) => server.serve(stream, peer, entry),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
                    // Boxed because it is rare, and there may be thousands of these.
                    Box::pin(tokio::time::sleep(ACCEPT_PAUSE)).await;
                }
            }
        }
    };
    server.stop.run_until_cancelled(pin!(accepting)).await;
}
