//! Edge: the running agent's socket for the tools, a file in its folder that only its own user may open.
//!
//! A line of JSON asks, a line of JSON answers, as often as the one who asks likes. What isn't a question is answered with a
//! sentence. The socket is there while the buffer is open; a start removes what a crash left behind.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::buffer::reader::{Ask, Page};
use crate::buffer::{Backfill, RetryOutcome};

/// Who may ask at a time; others wait.
const AT_ONCE: usize = 4;
/// Bytes of a question.
const LONGEST: u64 = 64 << 10;
/// So long a connection may rest.
const REST: Duration = Duration::from_secs(60);

/// What a tool wants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// A page.
    Read(Ask),
    /// Rejects to be tried again, by id.
    Retry(Vec<i64>),
    /// Readings that are kept back to be sent.
    Backfill(Backfill),
}

/// What it gets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// The page.
    Page(Page),
    /// What became of each reject.
    Retried(Vec<Tried>),
    /// How many readings will be sent that were kept back.
    Asked(u64),
}

/// A line of answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// What was asked for.
    Reply(Reply),
    /// A sentence why not.
    Refused(String),
}

/// What became of one reject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    /// Its id.
    pub id: i64,
    /// How many messages it stands for.
    pub occurrences: u64,
    /// Readings that were put into the buffer; none where it failed.
    pub readings: Option<u64>,
    /// Why it failed.
    pub failed: Option<String>,
}

impl From<RetryOutcome> for Tried {
    fn from(outcome: RetryOutcome) -> Self {
        let (readings, failed) = match outcome.readings {
            Ok(count) => (Some(count), None),
            Err(why) => (None, Some(why)),
        };
        Self { id: outcome.id, occurrences: outcome.occurrences, readings, failed }
    }
}

/// Where the socket lies.
pub fn path(dir: &Path) -> PathBuf {
    dir.join("control")
}

/// Makes the socket. The folder's lock must be held: then what lies there is of a life that is over.
///
/// # Errors
/// The system's: the path may be too long for a socket, or something else lies there.
pub fn bind(dir: &Path) -> io::Result<UnixListener> {
    let path = path(dir);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers with `answer` until told to stop, and then waits for nobody.
pub async fn serve<F>(
    listener: UnixListener,
    dir: &Path,
    stop: CancellationToken,
    answer: impl Fn(Request) -> F + Send + Sync + 'static,
) where
    F: Future<Output = Result<Reply, String>> + Send + 'static,
{
    let (answer, places) = (Arc::new(answer), Arc::new(Semaphore::new(AT_ONCE)));
    let mut asking = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
            Some(_) = asking.join_next() => continue,
        };
        let Ok((stream, _)) = accepted else {
            // Out of file descriptors: they come back.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (answer, places) = (Arc::clone(&answer), Arc::clone(&places));
        asking.spawn(async move {
            let Ok(_place) = places.acquire().await else { return };
            // Who hangs up, or says nothing, is let go.
            let _ = talk(stream, &*answer).await;
        });
    }
    asking.shutdown().await;
    // The next start removes one that stays.
    let _ = std::fs::remove_file(path(dir));
}

async fn talk<F>(stream: UnixStream, answer: &impl Fn(Request) -> F) -> io::Result<()>
where
    F: Future<Output = Result<Reply, String>>,
{
    let (from, mut to) = stream.into_split();
    let mut from = BufReader::new(from);
    loop {
        let mut line = Vec::new();
        timeout(REST, (&mut from).take(LONGEST).read_until(b'\n', &mut line)).await??;
        if line.is_empty() {
            return Ok(());
        }
        let whole = line.ends_with(b"\n");
        let answered = match serde_json::from_slice(&line) {
            Ok(request) => match answer(request).await {
                Ok(reply) => Answer::Reply(reply),
                Err(why) => Answer::Refused(why),
            },
            Err(e) => Answer::Refused(format!("this isn't a question that this version knows: {e}")),
        };
        let mut line = serde_json::to_vec(&answered).map_err(io::Error::other)?;
        line.push(b'\n');
        timeout(REST, to.write_all(&line)).await??;
        if !whole {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn say(dir: &Path, text: &[u8]) -> Vec<Answer> {
        let mut stream = UnixStream::connect(path(dir)).await.unwrap();
        stream.write_all(text).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[tokio::test]
    async fn questions_are_answered_in_their_order_and_rubbish_gets_a_sentence() {
        let dir = tempfile::tempdir().unwrap();
        // What a crash left behind.
        std::fs::write(path(dir.path()), b"").unwrap();
        let listener = bind(dir.path()).unwrap();
        let mode = std::fs::metadata(path(dir.path())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "only its own user may ask");
        let stop = CancellationToken::new();
        let (end, at) = (stop.clone(), dir.path().to_owned());
        let server = tokio::spawn(async move {
            serve(listener, &at, end, |request| async move {
                match request {
                    Request::Retry(ids) if ids.is_empty() => Err("which?".to_owned()),
                    Request::Retry(_) => Ok(Reply::Retried(Vec::new())),
                    Request::Backfill(_) => Ok(Reply::Asked(0)),
                    Request::Read(_) => Ok(Reply::Page(Page::Strays(vec!["a".into()]))),
                }
            })
            .await;
        });
        let said = say(dir.path(), b"{\"read\":\"strays\"}\n{\"retry\":[]}\n{\"retry\":[1]}\n").await;
        let strays = Answer::Reply(Reply::Page(Page::Strays(vec!["a".into()])));
        let expected = [strays, Answer::Refused("which?".into()), Answer::Reply(Reply::Retried(Vec::new()))];
        assert_eq!(said, expected);
        for rubbish in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\xff\n", b"{\"read\":", b"[[[[[[", &[b'['; 60_000]]
        {
            let said = say(dir.path(), rubbish).await;
            assert!(matches!(&said[..], [Answer::Refused(_), ..]), "{rubbish:?}: {said:?}");
        }
        stop.cancel();
        server.await.unwrap();
        assert!(!path(dir.path()).exists());
    }
}
