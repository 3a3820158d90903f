//! TLS before a server that speaks none, with certificates that a test makes: what it lets in goes on unencrypted.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, ensure};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";

/// An authority of its own, and the certificates that it has signed: `NAME.pem` and `NAME.key` in its folder.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
}

impl Authority {
    /// A new authority in `folder`, which is made; its name is the folder's.
    ///
    /// # Errors
    /// When openssl isn't installed, or the folder can't be written.
    pub async fn new(folder: PathBuf) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&folder)?;
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let made = Self { folder };
        made.openssl(&format!("req -x509 {KEY} -days 2 -subj /CN={name} -keyout ca.key -out ca.pem")).await?;
        Ok(made)
    }

    /// Signs a certificate for `names` (`DNS:host`, `IP:127.0.0.1`), `days` long from now on.
    ///
    /// # Errors
    /// As [`Authority::new`].
    pub async fn sign(&self, name: &str, names: &str, days: i32) -> anyhow::Result<()> {
        std::fs::write(self.folder.join(format!("{name}.san")), format!("subjectAltName={names}"))?;
        self.openssl(&format!("req -new {KEY} -subj /CN={name} -keyout {name}.key -out {name}.csr")).await?;
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days {days} -extfile {name}.san -out \
             {name}.pem"
        ))
        .await
    }

    /// The certificate to trust.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// A certificate that it has signed.
    #[must_use]
    pub fn cert(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.pem"))
    }

    /// Its key.
    #[must_use]
    pub fn key(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.key"))
    }

    async fn openssl(&self, arguments: &str) -> anyhow::Result<()> {
        let mut command = Command::new("openssl");
        let output = command.args(arguments.split(' ')).current_dir(&self.folder).output().await;
        let output = output.context("openssl isn't installed")?;
        ensure!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

/// A running front; dropping it closes the listener and every connection.
#[derive(Debug)]
pub struct TlsFront {
    address: SocketAddr,
    counts: Arc<Counts>,
    accepting: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Counts {
    admitted: AtomicUsize,
    refused: AtomicUsize,
}

impl TlsFront {
    /// Listens on `listen` with the certificate `name` of `own`, and passes what comes to `upstream`. With `clients` only
    /// those whose certificate that authority has signed.
    ///
    /// # Errors
    /// When a certificate can't be read, or `listen` not be bound.
    pub async fn start(
        listen: SocketAddr,
        upstream: SocketAddr,
        (own, name): (&Authority, &str),
        clients: Option<&Authority>,
    ) -> anyhow::Result<Self> {
        let config = Arc::new(server_config(&own.cert(name), &own.key(name), clients)?);
        let listener =
            TcpListener::bind(listen).await.with_context(|| format!("can't listen on {listen}"))?;
        let address = listener.local_addr()?;
        let counts = Arc::new(Counts::default());
        let accepting =
            tokio::spawn(accept(listener, TlsAcceptor::from(config), upstream, Arc::clone(&counts)));
        Ok(Self { address, counts, accepting })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that were let in.
    #[must_use]
    pub fn admitted(&self) -> usize {
        self.counts.admitted.load(Ordering::SeqCst)
    }

    /// Connections whose handshake failed, at whichever side.
    #[must_use]
    pub fn refused(&self) -> usize {
        self.counts.refused.load(Ordering::SeqCst)
    }

    /// Closes the listener and every connection, and returns when the address is free.
    pub async fn stop(mut self) {
        self.accepting.abort();
        let _ = (&mut self.accepting).await;
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn server_config(cert: &Path, key: &Path, clients: Option<&Authority>) -> anyhow::Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_file_iter(authority.ca())? {
                roots.add(certificate?)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let chain = CertificateDer::pem_file_iter(cert)?.collect::<Result<Vec<_>, _>>()?;
    Ok(builder.with_single_cert(chain, PrivateKeyDer::from_pem_file(key)?)?)
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, upstream: SocketAddr, counts: Arc<Counts>) {
    // They end with this task.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(pass(stream, acceptor.clone(), upstream, Arc::clone(&counts)));
        while connections.try_join_next().is_some() {}
    }
}

async fn pass(stream: TcpStream, acceptor: TlsAcceptor, upstream: SocketAddr, counts: Arc<Counts>) {
    let mut client = match acceptor.accept(stream).await {
        Ok(client) => client,
        Err(_) => {
            counts.refused.fetch_add(1, Ordering::SeqCst);
            return;
        }
    };
    counts.admitted.fetch_add(1, Ordering::SeqCst);
    if let Ok(mut server) = TcpStream::connect(upstream).await {
        // Either side may break it off: that is what the other one then sees.
        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    }
}
