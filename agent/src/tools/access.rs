//! Edge: the way to the buffer, whoever has it: the running agent over its socket, or the stopped one's file.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use tributary_contract::id::GatewayId;

use super::control::{Answer, Reply, Request};
use crate::buffer::Backfill;
use crate::buffer::reader::{Ask, Page, ReadError, Stopped};
use crate::config::Config;

/// So long an agent may take between taking the folder and answering, or the other way round.
const PATIENCE: Duration = Duration::from_secs(15);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// So long the running agent may take for one answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Why the buffer can't be asked.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The file of a stopped agent.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// An agent has the folder, but doesn't answer.
    #[error(
        "an agent has the buffer in {dir}, but doesn't answer on {socket} ({why}): it is starting or stopping, or is of \
         another version, or another user's; try again"
    )]
    Silent {
        /// The folder.
        dir: PathBuf,
        /// The socket.
        socket: PathBuf,
        /// Why.
        why: String,
    },
    /// The agent refuses.
    #[error("the running agent says: {0}")]
    Refused(String),
    /// The buffer is another gateway's.
    #[error(
        "the buffer in {dir} is of gateway {got}, the configuration says {expected}: name the right --config"
    )]
    Foreign {
        /// The folder.
        dir: PathBuf,
        /// Whose it is.
        got: String,
        /// Whose it should be.
        expected: String,
    },
    /// An answer to something else: a fault of this program.
    #[error("the answer is not to what was asked")]
    Confused,
}

/// The way to one buffer.
pub struct Access {
    /// The folder.
    pub dir: PathBuf,
    gateway: GatewayId,
    stream: Option<BufReader<UnixStream>>,
    /// Whether the last answer came from a running agent.
    running: bool,
}

impl Access {
    /// The way to the buffer of `config`; nothing is opened yet.
    pub fn new(config: &Config) -> Self {
        let (dir, gateway) = (config.state_dir.clone(), config.gateway.clone());
        Self { dir, gateway, stream: None, running: false }
    }

    /// Whether the last answer came from a running agent.
    pub const fn running(&self) -> bool {
        self.running
    }

    /// Whose buffer it should be.
    pub const fn gateway(&self) -> &GatewayId {
        &self.gateway
    }

    /// Asks whoever has the buffer now.
    ///
    /// # Errors
    /// See [`AccessError`].
    pub fn ask(&mut self, ask: &Ask) -> Result<Page, AccessError> {
        let request = Request::Read(ask.clone());
        match self.request(&request, |stopped| stopped.read(ask))? {
            Reply::Page(page) => Ok(page),
            Reply::Retried(_) | Reply::Asked(_) => Err(AccessError::Confused),
        }
    }

    /// Asks the running agent to try rejects again; none if no agent runs.
    ///
    /// # Errors
    /// See [`AccessError`].
    pub fn retry(&mut self, ids: &[i64]) -> Result<Option<Vec<super::control::Tried>>, AccessError> {
        if Stopped::open(&self.dir, &self.gateway)?.is_some() {
            return Ok(None);
        }
        match self.over_socket(&Request::Retry(ids.to_vec()))? {
            Reply::Retried(tried) => Ok(Some(tried)),
            Reply::Page(_) | Reply::Asked(_) => Err(AccessError::Confused),
        }
    }

    /// Asks the running agent to send readings that it keeps back; how many there are, or none if no agent runs.
    ///
    /// # Errors
    /// See [`AccessError`].
    pub fn backfill(&mut self, what: &Backfill) -> Result<Option<u64>, AccessError> {
        if Stopped::open(&self.dir, &self.gateway)?.is_some() {
            return Ok(None);
        }
        match self.over_socket(&Request::Backfill(what.clone()))? {
            Reply::Asked(readings) => Ok(Some(readings)),
            Reply::Page(_) | Reply::Retried(_) => Err(AccessError::Confused),
        }
    }

    /// What SQLite finds wrong in the structure of a stopped agent's file. The outer none: an agent runs.
    ///
    /// # Errors
    /// See [`AccessError`].
    pub fn structure(&mut self) -> Result<Option<Option<String>>, AccessError> {
        let stopped = Stopped::open(&self.dir, &self.gateway)?;
        Ok(stopped.map(|stopped| stopped.structure()).transpose()?)
    }

    fn request(
        &mut self,
        request: &Request,
        read: impl Fn(&Stopped) -> Result<Page, ReadError>,
    ) -> Result<Reply, AccessError> {
        let began = Instant::now();
        loop {
            // Opened anew for each page: an agent may start while somebody looks at what was printed.
            if let Some(stopped) = Stopped::open(&self.dir, &self.gateway)? {
                self.running = false;
                let page = read(&stopped)?;
                return self.ours(Reply::Page(page));
            }
            match self.over_socket(request) {
                Err(AccessError::Silent { .. }) if began.elapsed() < PATIENCE => sleep(LOOK_AGAIN),
                other => return other.and_then(|reply| self.ours(reply)),
            }
        }
    }

    fn ours(&self, reply: Reply) -> Result<Reply, AccessError> {
        if let Reply::Page(Page::Facts(facts)) = &reply
            && let Some(got) = facts.gateway.as_ref().filter(|got| got.as_str() != self.gateway.as_str())
        {
            let (dir, got, expected) = (self.dir.clone(), got.clone(), self.gateway.to_string());
            return Err(AccessError::Foreign { dir, got, expected });
        }
        Ok(reply)
    }

    fn over_socket(&mut self, request: &Request) -> Result<Reply, AccessError> {
        let socket = super::control::path(&self.dir);
        let mut attempt = || -> io::Result<String> {
            let stream = match self.stream.take() {
                Some(stream) => stream,
                None => {
                    let stream = UnixStream::connect(&socket)?;
                    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
                    stream.set_write_timeout(Some(ANSWER_WITHIN))?;
                    BufReader::new(stream)
                }
            };
            let mut stream = stream;
            let mut line = serde_json::to_string(request).map_err(io::Error::other)?;
            line.push('\n');
            stream.get_mut().write_all(line.as_bytes())?;
            let mut answer = String::new();
            stream.read_line(&mut answer)?;
            if !answer.ends_with('\n') {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.stream = Some(stream);
            Ok(answer)
        };
        let silent = |why: String| AccessError::Silent { dir: self.dir.clone(), socket: socket.clone(), why };
        let answer = attempt().map_err(|e| silent(e.to_string()))?;
        self.running = true;
        match serde_json::from_str(&answer).map_err(|e| silent(e.to_string()))? {
            Answer::Reply(reply) => Ok(reply),
            Answer::Refused(why) => Err(AccessError::Refused(why)),
        }
    }
}
