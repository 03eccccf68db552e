//! A container's log as a stream: the last lines, those since a time, and those still to come.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::StreamExt;
use http::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::sync::{mpsc, watch};

use super::{Body, Query, streamed, text};
use crate::pod::{PodView, log_path};
use crate::runtime::log::{Entry, files};

/// How often a follower looks whether its client or its container is gone, in milliseconds.
const PATIENCE: u16 = 500;
/// Bytes gathered before they are sent.
const CHUNK: usize = 16 << 10;

/// What part of a log is wanted.
#[derive(Debug, Clone, Default)]
struct Options {
    tail: Option<usize>,
    since: Option<Timestamp>,
    timestamps: bool,
    limit: Option<usize>,
    follow: bool,
}

impl Options {
    fn of(query: &Query) -> Result<Self, String> {
        fn number<T: std::str::FromStr>(query: &Query, name: &str) -> Result<Option<T>, String> {
            query
                .get(name)
                .map(|text| {
                    text.parse()
                        .map_err(|_| format!("invalid {name}: {text:?}"))
                })
                .transpose()
        }
        let since_time: Option<Timestamp> = number(query, "sinceTime")?;
        let since = number::<i64>(query, "sinceSeconds")?.map(ago);
        Ok(Self {
            tail: number(query, "tailLines")?,
            since: since.or(since_time),
            timestamps: query.is_set("timestamps"),
            limit: number(query, "limitBytes")?,
            follow: query.is_set("follow"),
        })
    }
}

/// The time that many seconds before now, or the nearest that there is.
fn ago(seconds: i64) -> Timestamp {
    let nearest = if seconds < 0 {
        Timestamp::MAX
    } else {
        Timestamp::MIN
    };
    let back = SignedDuration::from_secs(seconds.saturating_neg());
    Timestamp::now().checked_add(back).unwrap_or(nearest)
}

/// Answers a request for a container's log.
pub(super) fn answer(
    view: watch::Receiver<PodView>,
    pod: &str,
    container: &str,
    query: &Query,
) -> Response<Body> {
    let options = match Options::of(query) {
        Ok(options) => options,
        Err(message) => return text(StatusCode::BAD_REQUEST, &message),
    };
    let seen = view.borrow().clone();
    let Some(state) = seen.containers.get(container) else {
        return text(
            StatusCode::BAD_REQUEST,
            &format!("container {container} is not valid for pod {pod}"),
        );
    };
    // A container that waits for its restart shows the attempt that ended.
    let current = if state.exists {
        Some(state.attempt)
    } else {
        state.attempt.checked_sub(1)
    };
    let previous = query.is_set("previous");
    let attempt = if previous {
        current.and_then(|attempt| attempt.checked_sub(1))
    } else {
        current
    };
    let Some(attempt) = attempt else {
        let message = if previous {
            format!("previous terminated container \"{container}\" in pod \"{pod}\" not found")
        } else {
            format!(
                "container \"{container}\" in pod \"{pod}\" is waiting to start: ContainerCreating"
            )
        };
        return text(StatusCode::BAD_REQUEST, &message);
    };
    let path = log_path(&seen.dir, container, attempt);
    let (send, receive) = mpsc::channel(4);
    let name = container.to_owned();
    let runs = move || {
        let view = view.borrow();
        view.containers
            .get(&name)
            .is_some_and(|state| state.attempt == attempt && state.running.is_some())
    };
    tokio::task::spawn_blocking(move || {
        let mut sender = Sender {
            send,
            pending: Vec::new(),
            options: options.clone(),
            left: options.limit,
            fresh: true,
        };
        match read(&path, &options, runs, &mut sender) {
            // The client has gone, or has got all it wanted.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(error) => drop(sender.send.blocking_send(Err(error))),
            Ok(()) => {}
        }
    });
    streamed(
        futures::stream::unfold(receive, |mut receive| async {
            Some((receive.recv().await?, receive))
        })
        .boxed(),
    )
}

/// Turns entries into what the client wants to see.
struct Sender {
    send: mpsc::Sender<io::Result<Bytes>>,
    pending: Vec<u8>,
    options: Options,
    left: Option<usize>,
    /// The next entry starts a line.
    fresh: bool,
}

impl Sender {
    fn entry(&mut self, line: &[u8]) -> io::Result<()> {
        let Some(entry) = Entry::parse(line) else {
            return Ok(());
        };
        if !self.wants(&entry) {
            return Ok(());
        }
        if self.options.timestamps && self.fresh {
            self.pending.extend_from_slice(entry.time.as_bytes());
            self.pending.push(b' ');
        }
        self.pending.extend_from_slice(entry.text);
        if entry.complete {
            self.pending.push(b'\n');
        }
        self.fresh = entry.complete;
        if self.pending.len() >= CHUNK {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn wants(&self, entry: &Entry<'_>) -> bool {
        let Some(since) = self.options.since else {
            return true;
        };
        entry
            .time
            .parse::<Timestamp>()
            .is_ok_and(|time| time >= since)
    }

    /// Sends what is pending; fails once the client is gone or has its limit.
    fn flush(&mut self) -> io::Result<()> {
        let mut chunk = std::mem::take(&mut self.pending);
        if let Some(left) = &mut self.left {
            chunk.truncate(*left);
            *left -= chunk.len();
        }
        if !chunk.is_empty() {
            self.send
                .blocking_send(Ok(chunk.into()))
                .map_err(|_| io::ErrorKind::BrokenPipe)?;
        }
        if self.left == Some(0) || self.send.is_closed() {
            Err(io::ErrorKind::BrokenPipe.into())
        } else {
            Ok(())
        }
    }
}

fn read(
    path: &Path,
    options: &Options,
    runs: impl Fn() -> bool,
    sender: &mut Sender,
) -> io::Result<()> {
    // Watched before it is read: what comes meanwhile is not missed.
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    if options.follow
        && let Some(dir) = path.parent()
    {
        inotify.add_watch(dir, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE)?;
    }
    let mut current = existing(path, options.tail, sender)?;
    sender.flush()?;
    if !options.follow {
        return Ok(());
    }
    loop {
        let running = runs();
        let advanced = advance(path, &mut current, sender)?;
        sender.flush()?;
        // Once it has ended before the last look, there is nothing more to come.
        if !running && !advanced {
            return Ok(());
        }
        if !advanced {
            wait(&inotify)?;
        }
    }
}

/// A log file and how far it was read.
struct Current {
    file: Option<(BufReader<File>, u64)>,
    partial: Vec<u8>,
}

/// Sends what is there; gives the current file.
fn existing(path: &Path, tail: Option<usize>, sender: &mut Sender) -> io::Result<Current> {
    let mut current = Current {
        file: None,
        partial: Vec::new(),
    };
    let mut kept: VecDeque<Vec<u8>> = VecDeque::new();
    for file in files(path) {
        let mut reader = open(&file)?;
        loop {
            let mut line = Vec::new();
            if reader.0.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            if line.pop_if(|last| *last == b'\n').is_none() {
                current.partial = line;
                break;
            }
            match tail {
                None => sender.entry(&line)?,
                Some(most) => {
                    kept.push_back(line);
                    if kept.len() > most {
                        kept.pop_front();
                    }
                }
            }
        }
        current.file = Some(reader);
    }
    kept.iter().try_for_each(|line| sender.entry(line))?;
    Ok(current)
}

fn open(path: &PathBuf) -> io::Result<(BufReader<File>, u64)> {
    let file = File::open(path)?;
    let inode = file.metadata()?.ino();
    Ok((BufReader::new(file), inode))
}

/// Sends what has come since; true if there was anything.
fn advance(path: &Path, current: &mut Current, sender: &mut Sender) -> io::Result<bool> {
    let mut advanced = false;
    if let Some((reader, _)) = &mut current.file {
        while reader.read_until(b'\n', &mut current.partial)? > 0 {
            advanced = true;
            if current.partial.pop_if(|last| *last == b'\n').is_some() {
                sender.entry(&std::mem::take(&mut current.partial))?;
            }
        }
    }
    // The file may have been rotated, or made only now.
    let inode = fs::metadata(path).map(|metadata| metadata.ino()).ok();
    if inode.is_some() && inode != current.file.as_ref().map(|(_, inode)| *inode) {
        current.file = Some(open(&path.to_owned())?);
        return Ok(true);
    }
    Ok(advanced)
}

fn wait(inotify: &Inotify) -> io::Result<()> {
    let mut fds = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::from(PATIENCE)) {
        Ok(0) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Ok(_) => match inotify.read_events() {
            Ok(_) | Err(nix::errno::Errno::EAGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        },
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_of_seconds_is_too_large() {
        for (seconds, expected) in [
            (i64::MAX, Timestamp::MIN),
            (1 << 40, Timestamp::MIN),
            (i64::MIN, Timestamp::MAX),
        ] {
            assert_eq!(ago(seconds), expected, "{seconds}");
        }
        assert!(ago(0) <= Timestamp::now() && ago(60) < ago(0));
    }
}
