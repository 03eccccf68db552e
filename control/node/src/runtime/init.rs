//! The last steps of a process on its way into a container: it joins, gives up its privileges and becomes the program.

use std::ffi::CString;
use std::fs;
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, chdir, getcwd, getppid, setgroups, setresgid, setresuid};

use super::{ContainerSpec, Namespaces, Process, Security, User, UserName, mounts, seccomp};
use crate::fs::at;
use crate::sys;

/// How many files a program may open unless it asks for more.
const OPEN_FILES: u64 = 65_536;
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Becomes process 1 of the container in `dir`. Returns only with what went wrong.
pub(super) fn run(dir: &Path, spec: &ContainerSpec) -> String {
    match prepare(dir, spec) {
        Ok(()) => become_program(&spec.process, false),
        Err(error) => format!("failed to create container: {error}"),
    }
}

fn prepare(dir: &Path, spec: &ContainerSpec) -> io::Result<()> {
    spec.cgroups.join()?;
    join(&spec.namespaces)?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWCGROUP)?;
    set_oom_score(spec.oom_score)?;
    mounts::enter_root(dir, spec)
}

fn join(namespaces: &Namespaces) -> io::Result<()> {
    let kinds = [
        (&namespaces.net, CloneFlags::CLONE_NEWNET),
        (&namespaces.ipc, CloneFlags::CLONE_NEWIPC),
        (&namespaces.uts, CloneFlags::CLONE_NEWUTS),
    ];
    for (path, kind) in kinds {
        if let Some(path) = path {
            setns(fs::File::open(path).map_err(at(path))?, kind)
                .map_err(|error| at(path)(error.into()))?;
        }
    }
    Ok(())
}

fn set_oom_score(score: i32) -> io::Result<()> {
    match fs::write("/proc/self/oom_score_adj", score.to_string()) {
        // Lowering it needs CAP_SYS_RESOURCE, which an agent in a container of its own may lack.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        other => other,
    }
}

/// Becomes the program, inside the container, which is killed when its parent ends if it `dies_with_parent`. Returns
/// only with what went wrong.
pub(super) fn become_program(process: &Process, dies_with_parent: bool) -> String {
    match drop_privileges(process, dies_with_parent) {
        Ok(environment) => exec(process, &environment),
        Err(error) => error,
    }
}

/// Gives up what the program may not have; gives the environment it gets.
fn drop_privileges(process: &Process, dies_with_parent: bool) -> Result<Vec<String>, String> {
    let failed =
        |what: &'static str| move |error: Errno| format!("{what}: {}", io::Error::from(error));
    let parent = getppid();
    let identity = Identity::look_up(&process.user)?;
    if process.user.must_not_be_root && identity.uid == 0 {
        return Err("container has runAsNonRoot and image will run as root".into());
    }
    limit_files().map_err(failed("setting limits"))?;
    umask(Mode::from_bits_truncate(0o022));
    restrict(&process.security).map_err(failed("dropping capabilities"))?;
    let groups: Vec<Gid> = identity.groups.iter().copied().map(Gid::from_raw).collect();
    setgroups(&groups).map_err(failed("setting groups"))?;
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    setresgid(gid, gid, gid).map_err(failed("setting the group"))?;
    setresuid(uid, uid, uid).map_err(failed("setting the user"))?;
    if dies_with_parent {
        // Only now: the kernel forgets it with a change of identity.
        set_pdeathsig(Signal::SIGKILL).map_err(failed("following the parent"))?;
        if getppid() != parent {
            return Err("the parent has ended".into());
        }
    }
    sys::close_on_exec_from(3).map_err(failed("closing descriptors"))?;
    chdir(&process.directory).map_err(|error| {
        format!(
            "chdir to {}: {}",
            process.directory.display(),
            io::Error::from(error)
        )
    })?;
    // A directory that an open descriptor leads to may be none of the container's.
    getcwd().map_err(failed("the working directory is outside of the container"))?;

    let mut environment = process.environment.clone();
    if !environment.iter().any(|pair| pair.starts_with("HOME=")) {
        environment.push(format!("HOME={}", identity.home));
    }
    Ok(environment)
}

fn limit_files() -> nix::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES.min(hard), hard)
}

fn restrict(security: &Security) -> nix::Result<()> {
    if security.no_new_privileges {
        nix::sys::prctl::set_no_new_privs()?;
    }
    // Before the capability that allows it is gone.
    if security.seccomp {
        sys::install_seccomp(&seccomp::filter())?;
    }
    for capability in super::capabilities::all() {
        if !security.capabilities.contains(&capability) {
            match sys::drop_bounding(capability) {
                // The kernel is older than the capability.
                Ok(()) | Err(Errno::EINVAL) => {}
                Err(error) => return Err(error),
            }
        }
    }
    sys::clear_inheritable()
}

fn exec(process: &Process, environment: &[String]) -> String {
    let Some(program) = process.arguments.first() else {
        return "no command specified".into();
    };
    let (Some(arguments), Some(environment)) =
        (c_strings(&process.arguments), c_strings(environment))
    else {
        return "a command or environment with a zero byte".into();
    };
    let mut denied = false;
    for path in candidates(program, &process.environment) {
        let Ok(path) = CString::new(path) else {
            continue;
        };
        match sys::exec(&path, &arguments, &environment) {
            Errno::ENOENT | Errno::ENOTDIR => {}
            Errno::EACCES => denied = true,
            error => return format!("exec: {program:?}: {}", io::Error::from(error)),
        }
    }
    if denied {
        format!("exec: {program:?}: permission denied")
    } else if program.contains('/') {
        format!("exec: {program:?}: stat {program}: no such file or directory")
    } else {
        format!("exec: {program:?}: executable file not found in $PATH")
    }
}

/// Where the program may be.
fn candidates(program: &str, environment: &[String]) -> Vec<String> {
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    let path = environment
        .iter()
        .find_map(|pair| pair.strip_prefix("PATH="))
        .unwrap_or(DEFAULT_PATH);
    path.split(':')
        .map(|dir| format!("{}/{program}", if dir.is_empty() { "." } else { dir }))
        .collect()
}

fn c_strings(strings: &[String]) -> Option<Vec<CString>> {
    strings
        .iter()
        .map(|string| CString::new(string.as_str()).ok())
        .collect()
}

/// Who a program runs as, in numbers.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    home: String,
}

impl Identity {
    fn look_up(user: &User) -> Result<Self, String> {
        // An image without these files has no names, only numbers.
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let group = fs::read_to_string("/etc/group").unwrap_or_default();
        Self::of(user, &passwd, &group)
    }

    fn of(user: &User, passwd: &str, group: &str) -> Result<Self, String> {
        let (name, named_group) = match &user.name {
            UserName::Id(id) => (id.to_string(), None),
            UserName::Image(text) => match text.split_once(':') {
                Some((name, group)) => (name.to_owned(), Some(group)),
                None => (text.clone(), None),
            },
        };
        let name = if name.is_empty() {
            "0".to_owned()
        } else {
            name
        };
        let entry = lines(passwd).find(|fields| {
            fields.first() == Some(&name.as_str()) || fields.get(2) == Some(&name.as_str())
        });
        let number = |field: Option<&&str>| field.and_then(|text| text.parse().ok());
        let uid = match (name.parse(), &entry) {
            (Ok(uid), _) => uid,
            (Err(_), Some(fields)) => {
                number(fields.get(2)).ok_or_else(|| format!("no user id for {name:?}"))?
            }
            (Err(_), None) => {
                return Err(format!(
                    "unable to find user {name}: no matching entries in passwd file"
                ));
            }
        };
        let gid = match (user.group, named_group) {
            (Some(gid), _) => gid,
            (None, Some(name)) => group_id(name, group)?,
            (None, None) => entry
                .as_ref()
                .and_then(|fields| number(fields.get(3)))
                .unwrap_or(0),
        };
        let login = entry.as_ref().and_then(|fields| fields.first().copied());
        let mut groups: Vec<u32> = lines(group)
            .filter(|fields| {
                login.is_some_and(|login| {
                    fields
                        .get(3)
                        .is_some_and(|members| members.split(',').any(|m| m == login))
                })
            })
            .filter_map(|fields| number(fields.get(2)))
            .chain([gid])
            .chain(user.groups.iter().copied())
            .collect();
        groups.sort_unstable();
        groups.dedup();
        let home = entry
            .and_then(|fields| fields.get(5).copied())
            .filter(|home| !home.is_empty())
            .unwrap_or("/");
        Ok(Self {
            uid,
            gid,
            groups,
            home: home.to_owned(),
        })
    }
}

fn lines(file: &str) -> impl Iterator<Item = Vec<&str>> {
    file.lines().map(|line| line.split(':').collect())
}

fn group_id(name: &str, group: &str) -> Result<u32, String> {
    if let Ok(gid) = name.parse() {
        return Ok(gid);
    }
    let entry = lines(group).find(|fields| fields.first() == Some(&name));
    let gid = entry.and_then(|fields| fields.get(2)?.parse().ok());
    gid.ok_or_else(|| format!("unable to find group {name}: no matching entries in group file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/var/www:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nlogs:x:40:web,other\n";

    fn check(name: UserName, group: Option<u32>, expected: Result<(u32, u32, &[u32], &str), &str>) {
        let user = User {
            name,
            group,
            groups: vec![7],
            must_not_be_root: false,
        };
        let found = Identity::of(&user, PASSWD, GROUP);
        let expected = expected
            .map_err(str::to_owned)
            .map(|(uid, gid, groups, home)| Identity {
                uid,
                gid,
                groups: groups.to_vec(),
                home: home.to_owned(),
            });
        assert_eq!(found, expected);
    }

    #[test]
    fn users_are_looked_up_in_the_images_files() {
        let image = |name: &str| UserName::Image(name.to_owned());
        check(image(""), None, Ok((0, 0, &[0, 7], "/root")));
        check(image("web"), None, Ok((33, 34, &[7, 34, 40], "/var/www")));
        check(image("33"), None, Ok((33, 34, &[7, 34, 40], "/var/www")));
        check(image("web:logs"), None, Ok((33, 40, &[7, 40], "/var/www")));
        check(image("1000:1001"), None, Ok((1000, 1001, &[7, 1001], "/")));
        check(UserName::Id(1000), None, Ok((1000, 0, &[0, 7], "/")));
        check(
            UserName::Id(33),
            Some(5),
            Ok((33, 5, &[5, 7, 40], "/var/www")),
        );
        check(
            image("nobody"),
            None,
            Err("unable to find user nobody: no matching entries in passwd file"),
        );
        check(
            image("web:none"),
            None,
            Err("unable to find group none: no matching entries in group file"),
        );
    }

    #[test]
    fn programs_are_looked_for_in_the_containers_path() {
        assert_eq!(candidates("/bin/a", &[]), ["/bin/a"]);
        assert_eq!(candidates("./a", &[]), ["./a"]);
        assert_eq!(
            candidates("a", &["PATH=/x::/y".into()]),
            ["/x/a", "./a", "/y/a"]
        );
        assert_eq!(candidates("a", &[]).len(), 6);
    }
}
