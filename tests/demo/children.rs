//! The agent and the receiver as real processes: built, started, watched, stopped.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use futures::future::select_all;
use tokio::process::{Child, Command};

use tributary_tests::wait::until;
use tributary_tests::workspace;

use crate::data::gateway_name;
use crate::home::Home;

/// How long a child may take to stop before it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(15);
/// Lines of a log that are shown when its program died.
const LAST_LINES: usize = 20;

/// The programs, built.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) agent: PathBuf,
    pub(crate) receiver: PathBuf,
    /// The S3 server, for a demo that kills it.
    pub(crate) s3: PathBuf,
}

/// Running children; dropping them kills what still runs.
#[derive(Debug, Default)]
pub(crate) struct Children {
    running: Vec<Running>,
}

#[derive(Debug)]
struct Running {
    name: String,
    program: PathBuf,
    arguments: Vec<OsString>,
    child: Child,
    log: PathBuf,
    pid_file: PathBuf,
}

/// A child that ended though nobody asked it to.
#[derive(Debug)]
pub(crate) struct Ended {
    name: String,
    status: ExitStatus,
    log: PathBuf,
}

/// The programs, which stand beside this one. In a target folder of cargo whose sources are there, cargo builds them
/// first, so that they are never older than this program; its progress goes to standard error. Elsewhere, and without
/// cargo, they are taken as they are.
///
/// # Errors
/// When the build fails, or the programs aren't there and can't be built.
pub(crate) async fn programs() -> anyhow::Result<Programs> {
    let own = std::env::current_exe().context("can't tell where this program is")?;
    let folder = own.parent().context("this program stands in no folder")?;
    let found = Programs {
        agent: folder.join("tributary-agent"),
        receiver: folder.join("tributary-receiver"),
        s3: folder.join("tributary-s3"),
    };
    let root = workspace::folder();
    let why_not_built = if !folder.join(".fingerprint").is_dir() {
        Some("this program stands outside cargo's target folder, so they aren't built".to_owned())
    } else if root.join("Cargo.toml").is_file() {
        let built = build(folder).await?;
        (!built).then(|| "cargo, which builds them, is not in the PATH".to_owned())
    } else {
        Some(format!("the sources to build them are not in {}", root.display()))
    };
    for program in [&found.agent, &found.receiver, &found.s3] {
        let why = why_not_built.as_deref().unwrap_or("cargo has put them elsewhere");
        ensure!(program.is_file(), "{} isn't there: {why}", program.display());
    }
    Ok(found)
}

/// Builds both programs into `folder`. False when there is no cargo.
async fn build(folder: &Path) -> anyhow::Result<bool> {
    let mut build = Command::from(workspace::cargo());
    build.args(build_arguments(folder)).stdin(Stdio::null());
    // Standard output is for data; cargo writes its progress to standard error.
    build.stdout(Stdio::null());
    let status = match build.status().await {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        status => status.context("can't run cargo to build the two programs")?,
    };
    ensure!(status.success(), "building the two programs failed ({status})");
    Ok(true)
}

/// The build that puts its programs into `folder`, which is a profile's folder in a target folder.
fn build_arguments(folder: &Path) -> Vec<OsString> {
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(name) => name,
        None => "release",
    };
    let mut arguments: Vec<OsString> = ["build", "--profile", profile].map(Into::into).into();
    for program in ["tributary-agent", "tributary-receiver", "tributary-s3"] {
        arguments.extend(["--bin", program].map(Into::into));
    }
    if let Some(target) = folder.parent() {
        arguments.extend(["--target-dir".into(), target.into()]);
    }
    arguments
}

impl Children {
    /// Starts `program run --config CONFIG` as `name`.
    pub(crate) fn start(
        &mut self,
        home: &Home,
        name: &str,
        program: &Path,
        config: &Path,
    ) -> anyhow::Result<()> {
        self.start_with(home, name, program, ["run".into(), "--config".into(), config.into()])
    }

    /// Starts `program` with `arguments` as `name`; both of its outputs go to the log `NAME.log`.
    pub(crate) fn start_with(
        &mut self,
        home: &Home,
        name: &str,
        program: &Path,
        arguments: impl Into<Vec<OsString>>,
    ) -> anyhow::Result<()> {
        let (arguments, pid_file) = (arguments.into(), home.path(&format!("{name}.pid")));
        let log = home.path(&format!("{name}.log"));
        let child = spawn(program, &arguments, &log, &pid_file)?;
        let (name, program) = (name.to_owned(), program.to_owned());
        self.running.push(Running { name, program, arguments, child, log, pid_file });
        Ok(())
    }

    /// Names of the children, in the order in which they were started.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        self.running.iter().map(|running| running.name.clone())
    }

    /// Kills a child with SIGKILL and returns when it is gone. It must be started again before anything else is asked.
    pub(crate) async fn kill(&mut self, name: &str) -> anyhow::Result<()> {
        self.named(name)?.child.kill().await.with_context(|| format!("can't kill {name}"))
    }

    /// Starts a killed child as it was started first.
    pub(crate) fn start_again(&mut self, name: &str) -> anyhow::Result<()> {
        let running = self.named(name)?;
        running.child = spawn(&running.program, &running.arguments, &running.log, &running.pid_file)?;
        Ok(())
    }

    fn named(&mut self, name: &str) -> anyhow::Result<&mut Running> {
        let found = self.running.iter_mut().find(|running| running.name == name);
        found.with_context(|| format!("there is no child {name}"))
    }

    /// Waits until any child ends by itself.
    pub(crate) async fn ended(&mut self) -> Ended {
        if self.running.is_empty() {
            return std::future::pending().await;
        }
        let waits = self.running.iter_mut().map(|running| {
            Box::pin(async {
                let status = running.child.wait().await;
                (running.name.clone(), running.log.clone(), status)
            })
        });
        let ((name, log, status), _, _) = select_all(waits).await;
        // Waiting for one's own child can't fail on Linux but for programming errors.
        Ended { name, status: status.unwrap_or_default(), log }
    }

    /// Asks all children to stop, waits up to 15 seconds, and kills those that still run. Returns their names.
    pub(crate) async fn stop(mut self) -> Vec<String> {
        for running in &self.running {
            if let Some(pid) = running.child.id() {
                terminate(pid).await;
            }
        }
        let deadline = tokio::time::Instant::now() + STOP_WITHIN;
        let mut killed = Vec::new();
        for running in &mut self.running {
            if tokio::time::timeout_at(deadline, running.child.wait()).await.is_err() {
                killed.push(running.name.clone());
                if let Err(error) = running.child.kill().await {
                    tracing::error!(name = running.name, %error, "can't kill");
                }
            }
            if let Err(error) = fs::remove_file(&running.pid_file) {
                tracing::debug!(name = running.name, %error, "no pid file to remove");
            }
        }
        killed
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{} ended by itself ({}); the end of {}:", self.name, self.status, self.log.display())?;
        let bytes = fs::read(&self.log).unwrap_or_default();
        f.write_str(&last_lines(&String::from_utf8_lossy(&bytes), LAST_LINES))
    }
}

fn spawn(program: &Path, arguments: &[OsString], log: &Path, pid_file: &Path) -> anyhow::Result<Child> {
    let file = OpenOptions::new().create(true).append(true).open(log);
    let file = file.with_context(|| format!("can't open {}", log.display()))?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    // A group of its own, so that Ctrl-C reaches the demo alone, and it stops its children in order.
    command.process_group(0).kill_on_drop(true);
    let child = command.spawn().with_context(|| format!("can't start {}", program.display()))?;
    let pid = child.id().context("a child without an id")?;
    fs::write(pid_file, pid.to_string())?;
    Ok(child)
}

/// The last `count` lines of `text`.
fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(count)..).unwrap_or_default().join("\n")
}

/// Asks a process to stop (SIGTERM), through the shell: the standard library can't.
async fn terminate(pid: u32) {
    let script = r#"kill -TERM "$1""#;
    let mut kill = Command::new("sh");
    kill.args(["-c", script, "sh", &pid.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if let Err(error) = kill.status().await {
        tracing::error!(pid, %error, "can't send SIGTERM");
    }
}

/// Stops what a killed demo left behind in `home`: it holds ports. They must stay the same from start to start, as the
/// agent knows a message again only from the broker that it came from before.
pub(crate) async fn stop_all_left_behind(home: &Home, gateways: usize) -> anyhow::Result<()> {
    stop_left_behind(&home.path("receiver.pid"), &home.path("receiver.toml")).await?;
    stop_left_behind(&home.path("s3.pid"), &home.path("s3")).await?;
    stop_left_behind(&home.path("broker.pid"), &home.path("mosquitto.conf")).await?;
    for gateway in 0..gateways {
        let name = gateway_name(gateway);
        stop_left_behind(&home.path(&format!("{name}.pid")), &home.path(&name).join("agent.toml")).await?;
    }
    Ok(())
}

/// Stops the process of `pid_file` if it still runs with `config`: a demo that was killed leaves its children.
async fn stop_left_behind(pid_file: &Path, config: &Path) -> anyhow::Result<()> {
    let Some(pid) = fs::read_to_string(pid_file).ok().and_then(|text| text.trim().parse::<u32>().ok()) else {
        return Ok(());
    };
    if !runs_with(pid, config) {
        return Ok(());
    }
    terminate(pid).await;
    // It is no child of ours: nobody tells when it ends.
    until("it has ended", async || Ok((!runs_with(pid, config)).then_some(()))).await.with_context(|| {
        format!("process {pid} of an earlier demo still runs with {}; stop it first", config.display())
    })
}

/// Whether process `pid` was started with `config`, so that a reused id is never taken for our child.
fn runs_with(pid: u32, config: &Path) -> bool {
    let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let words: HashSet<&[u8]> = line.split(|&byte| byte == 0).collect();
    words.contains(config.as_os_str().as_encoded_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A program that ignores its arguments and does what `body` says.
    fn program(dir: &Path, body: &str) -> PathBuf {
        let path = dir.join("program");
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        path
    }

    #[tokio::test]
    async fn a_child_that_dies_is_named_with_its_status_and_last_lines() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(Some(dir.path())).unwrap();
        let program = program(dir.path(), "echo first >&2; echo the reason >&2; exit 7");
        let mut children = Children::default();
        children.start(&home, "gw-1", &program, &home.path("agent.toml")).unwrap();
        let ended = children.ended().await.to_string();
        assert!(
            ended.contains("gw-1 ended") && ended.contains('7') && ended.ends_with("the reason"),
            "{ended}"
        );
        assert_eq!(children.stop().await, Vec::<String>::new());
    }

    #[tokio::test]
    async fn children_are_asked_to_stop_and_may_finish() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(Some(dir.path())).unwrap();
        let body = format!(
            "trap 'echo stopped > {0}/stopped; exit 0' TERM; echo up > {0}/up; while :; do sleep 0.05; done",
            dir.path().display()
        );
        let program = program(dir.path(), &body);
        let mut children = Children::default();
        children.start(&home, "gw-1", &program, &home.path("agent.toml")).unwrap();
        while !home.path("up").exists() {
            tokio::task::yield_now().await;
        }
        assert_eq!(children.stop().await, Vec::<String>::new());
        assert!(home.path("stopped").exists());
        assert!(!home.path("gw-1.pid").exists());
    }

    #[tokio::test]
    async fn a_process_left_behind_is_stopped_and_a_strangers_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(Some(dir.path())).unwrap();
        let config = home.path("agent.toml");
        let mut ours = Command::new("sh")
            .args(["-c", "while :; do sleep 0.05; done"])
            .arg(&config)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        // A process that is just being started has no command line yet.
        while !runs_with(ours.id().unwrap(), &config) {
            tokio::task::yield_now().await;
        }
        let pid_file = home.path("gw-1.pid");
        fs::write(&pid_file, ours.id().unwrap().to_string()).unwrap();
        stop_left_behind(&pid_file, &home.path("other.toml")).await.unwrap();
        assert!(ours.try_wait().unwrap().is_none(), "another config: not ours");
        let (stopped, status) = tokio::join!(stop_left_behind(&pid_file, &config), ours.wait());
        stopped.unwrap();
        assert!(!status.unwrap().success());
    }

    #[test]
    fn the_programs_are_built_into_the_folder_this_one_stands_in() {
        let arguments = build_arguments(Path::new("/t/target/release"));
        let words: Vec<_> = arguments.iter().map(|word| word.to_str().unwrap()).collect();
        assert_eq!(
            words.join(" "),
            "build --profile release --bin tributary-agent --bin tributary-receiver --bin tributary-s3 \
             --target-dir /t/target"
        );
        assert!(build_arguments(Path::new("/t/target/debug")).contains(&"dev".into()));
    }
}
