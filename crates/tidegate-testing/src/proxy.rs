//! A network that fails on demand.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Forwards TCP connections to a server, and injects faults on demand.
#[derive(Debug)]
pub struct FaultProxy {
    addr: SocketAddr,
    line: watch::Sender<Line>,
    accepting: Mutex<Option<JoinHandle<()>>>,
    /// The previous forwarding task, which is about to end.
    closing: Mutex<Option<JoinHandle<()>>>,
}

/// The number of attempts to bind a port that another process has taken: ten seconds or more.
const REBINDS: u32 = 1000;

/// The state of the network.
#[derive(Clone, Copy, Debug)]
struct Line {
    target: SocketAddr,
    delay: Duration,
    frozen: bool,
    /// Connections of an earlier era stay frozen.
    era: u64,
    /// Connections of an earlier generation are closed.
    generation: u64,
}

impl FaultProxy {
    /// Starts to forward to `target`.
    ///
    /// # Errors
    ///
    /// If there is no free port.
    pub async fn start(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let line = Line { target, delay: Duration::ZERO, frozen: false, era: 0, generation: 0 };
        let line = watch::Sender::new(line);
        let accepting = Mutex::new(Some(tokio::spawn(accept(listener, line.subscribe()))));
        Ok(Self { addr, line, accepting, closing: Mutex::default() })
    }

    /// The address that clients connect to.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Forwards future connections to another server.
    pub fn retarget(&self, target: SocketAddr) {
        self.line.send_modify(|line| line.target = target);
    }

    /// Closes every connection and refuses new ones, until [`heal`](Self::heal).
    pub fn cut(&self) {
        if let Some(accepting) = self.accepting().take() {
            accepting.abort();
            *self.closing.lock().unwrap_or_else(PoisonError::into_inner) = Some(accepting);
        }
        self.line.send_modify(|line| line.generation += 1);
    }

    /// Keeps all connections open, including new ones, but forwards nothing, like a peer that has vanished.
    pub fn freeze(&self) {
        self.line.send_modify(|line| line.frozen = true);
    }

    /// Keeps the current connections open but forwards nothing on them, even after [`heal`](Self::heal). New connections
    /// work. This is like a host that has vanished and whose name soon leads to another host.
    pub fn strand(&self) {
        self.line.send_modify(|line| line.era += 1);
    }

    /// Delays the server's responses.
    pub fn delay(&self, delay: Duration) {
        self.line.send_modify(|line| line.delay = delay);
    }

    /// Ends all faults. Frozen connections continue.
    ///
    /// # Errors
    ///
    /// If another process took the port meanwhile.
    pub async fn heal(&self) -> io::Result<()> {
        self.line.send_modify(|line| (line.frozen, line.delay) = (false, Duration::ZERO));
        if self.accepting().is_none() {
            let closing = self.closing.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(closing) = closing {
                // The previous task owns its listener, which is closed when the task ends.
                drop(closing.await);
            }
            let listener = bind_again(self.addr).await?;
            *self.accepting() = Some(tokio::spawn(accept(listener, self.line.subscribe())));
        }
        Ok(())
    }

    fn accepting(&self) -> std::sync::MutexGuard<'_, Option<JoinHandle<()>>> {
        self.accepting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.cut();
    }
}

/// Binds the address, with retries: the system may have assigned the port to another process's connection meanwhile.
async fn bind_again(addr: SocketAddr) -> io::Result<TcpListener> {
    let mut result = TcpListener::bind(addr).await;
    for _ in 0..REBINDS {
        if !matches!(&result, Err(error) if error.kind() == io::ErrorKind::AddrInUse) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        result = TcpListener::bind(addr).await;
    }
    result
}

async fn accept(listener: TcpListener, line: watch::Receiver<Line>) {
    while let Ok((client, _)) = listener.accept().await {
        tokio::spawn(carry(client, line.clone()));
    }
}

async fn carry(client: TcpStream, mut line: watch::Receiver<Line>) {
    let (target, generation) = (line.borrow().target, line.borrow().generation);
    let era = line.borrow().era;
    let Ok(server) = TcpStream::connect(target).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (there, back) = (line.clone(), line.clone());
    tokio::select! {
        () = forward(from_client, to_server, there, (era, false)) => {}
        () = forward(from_server, to_client, back, (era, true)) => {}
        _ = line.wait_for(|line| line.generation != generation) => {}
    }
}

async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut line: watch::Receiver<Line>,
    (era, delayed): (u64, bool),
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(read) = from.read(&mut buffer).await else { return };
        let delay = line.borrow().delay;
        if delayed && !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        // Hide the end of the stream too: a vanished peer closes nothing.
        if line.wait_for(|line| !line.frozen && line.era == era).await.is_err() || read == 0 {
            return;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
