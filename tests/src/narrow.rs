//! A link that is narrow and long: it relays TCP, carries so many bytes a second in each direction, and takes its time over it. It
//! stands where a network emulator would, which not every kernel has (`sch_netem`): packets aren't lost, and what waits at its
//! narrow end is bounded as in a modem's buffer. All connections share its rate.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

/// Bytes that are carried as one.
const PIECE: usize = 1400;
/// Pieces on their way: more than any link here holds.
const UNDERWAY: usize = 1 << 16;

/// What the link is like.
#[derive(Debug, Clone, Copy)]
pub struct Width {
    /// Bytes a second in each direction.
    pub rate: f64,
    /// From one end to the other; a round trip is two.
    pub delay: Duration,
    /// How long a piece may wait at the narrow end before no more is taken in.
    pub queue: Duration,
}

/// One running link; dropping it closes every connection.
#[derive(Debug)]
pub struct NarrowLink {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

/// One direction: when the last piece that was taken in will have left the narrow end.
type Busy = Arc<Mutex<Instant>>;

impl NarrowLink {
    /// Listens on a free port, and carries what comes to `to`.
    ///
    /// # Errors
    /// When there is none.
    pub async fn start(to: SocketAddr, width: Width) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        Ok(Self { address, accepting: tokio::spawn(accept(listener, to, width)) })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for NarrowLink {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, to: SocketAddr, width: Width) {
    let now = Instant::now();
    let (up, down): (Busy, Busy) = (Arc::new(Mutex::new(now)), Arc::new(Mutex::new(now)));
    let mut connections = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        let (up, down) = (Arc::clone(&up), Arc::clone(&down));
        connections.spawn(async move {
            // The handshake has been answered by this machine, and would have taken a round trip.
            sleep(width.delay * 2).await;
            let Ok(far) = TcpStream::connect(to).await else { return };
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            tokio::join!(carry(near_in, far_out, up, width), carry(far_in, near_out, down, width));
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Carries one direction until its sender ends or its receiver is gone.
async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, busy: Busy, width: Width) {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(UNDERWAY);
    let taking = async move {
        let mut piece = vec![0; PIECE];
        while let Ok(read) = from.read(&mut piece).await {
            let now = Instant::now();
            let leaves = {
                let mut busy = busy.lock().unwrap_or_else(PoisonError::into_inner);
                *busy = (*busy).max(now) + Duration::from_secs_f64(read as f64 / width.rate);
                *busy
            };
            let bytes = piece.get(..read).unwrap_or_default().to_vec();
            if sender.send((leaves + width.delay, bytes)).await.is_err() || read == 0 {
                return;
            }
            sleep_until(leaves.checked_sub(width.queue).unwrap_or(now)).await;
        }
    };
    let giving = async move {
        while let Some((at, bytes)) = receiver.recv().await {
            sleep_until(at).await;
            let given = if bytes.is_empty() { to.shutdown().await } else { to.write_all(&bytes).await };
            if given.is_err() {
                return;
            }
        }
    };
    tokio::join!(taking, giving);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_goes_in_comes_out_in_both_directions_and_no_sooner_than_the_link_carries_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let width = Width { rate: 1e6, delay: Duration::from_millis(20), queue: Duration::from_millis(50) };
        let link = NarrowLink::start(listener.local_addr().unwrap(), width).await.unwrap();
        let echo = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            stream.write_all(&all).await.unwrap();
        });
        let sent: Vec<u8> = (0..100_000_u32).map(|i| (i % 251) as u8).collect();
        let began = Instant::now();
        let mut stream = TcpStream::connect(link.address()).await.unwrap();
        stream.write_all(&sent).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).await.unwrap();
        echo.await.unwrap();
        assert!(back == sent, "{} bytes came back", back.len());
        // Twice 100 ms for the bytes, a round trip for the connection and one for them: a busy machine can only be later.
        assert!(began.elapsed() >= Duration::from_millis(280), "{:?}", began.elapsed());
    }
}
