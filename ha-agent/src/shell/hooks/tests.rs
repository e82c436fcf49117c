use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::{User, geteuid};
use tempfile::TempDir;
use tokio::time::sleep;

use super::*;
use crate::config::model::{Config, Node, Notify};
use crate::shell::clock;

const PATIENCE: Duration = Duration::from_secs(30);

/// A directory with a command in it that writes down its arguments, and does something else besides.
struct Scene {
    dir: TempDir,
}

impl Scene {
    fn new(besides: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let scene = Self { dir };
        let script = format!(
            "#!/bin/sh\necho \"$@\" >> {}\n{besides}\n",
            scene.path("told").display()
        );
        scene.write(&script);
        scene
    }

    fn write(&self, script: &str) {
        // By another process: a file that this one has open for writing could be inherited by what other tests start
        // at the moment, and then be busy.
        let text = self.path("text");
        fs::write(&text, script).unwrap();
        let copied = std::process::Command::new("cp")
            .args([&text, &self.path("hook")])
            .status();
        assert!(copied.unwrap().success());
        fs::set_permissions(self.path("hook"), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn hooks(&self, timeout: Duration) -> Hooks {
        let user = User::from_uid(geteuid()).unwrap().unwrap().name;
        hooks(&self.path("hook"), &user, timeout)
    }

    fn told(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("told")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

fn hooks(command: &Path, user: &str, timeout: Duration) -> Hooks {
    let file = b"version: 1
node: { name: lb, mode: off, interfaces: [{ name: front, device: eth0, address: 10.0.0.11/24 }] }
";
    let config = Config::parse(Path::new("f"), file.to_vec()).unwrap().config;
    Hooks::start(&Node {
        mode: Mode::First,
        notify: Some(Notify {
            command: command.to_owned(),
            user: user.to_owned(),
            timeout,
            instance: "VI_1".to_owned(),
        }),
        ..config.node
    })
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = clock::now() + PATIENCE;
    while !done() {
        assert!(clock::now() < end, "{what}");
        sleep(Duration::from_millis(10)).await;
    }
}

fn line(state: &str) -> String {
    format!("INSTANCE VI_1 {state} 100")
}

#[tokio::test]
async fn changes_are_told_in_their_order_and_each_once() {
    let scene = Scene::new("");
    let hooks = scene.hooks(PATIENCE);
    for state in [State::Backup, State::Backup, State::Master, State::Fault] {
        hooks.tell(state);
    }
    hooks.tell(State::Stop);
    hooks.finish(PATIENCE).await;
    let expected = ["BACKUP", "MASTER", "FAULT", "STOP"].map(line);
    assert_eq!(scene.told(), expected);
    let outcomes = Outcomes {
        done: 4,
        ..Outcomes::default()
    };
    assert_eq!(hooks.outcomes(), outcomes);
    // Nobody is there any more to tell it to.
    hooks.tell(State::Master);
    assert_eq!(hooks.outcomes(), outcomes);
}

#[tokio::test]
async fn a_slow_command_is_spared_what_is_over_and_told_how_it_is() {
    let scene = Scene::new(&format!(
        "while ! [ -e {0}/go ]; do sleep 0.01; done",
        "$(dirname $0)"
    ));
    let hooks = scene.hooks(PATIENCE);
    hooks.tell(State::Backup);
    until("the first runs", || !scene.told().is_empty()).await;
    for _ in 0..50 {
        hooks.tell(State::Master);
        hooks.tell(State::Backup);
    }
    hooks.tell(State::Master);
    assert_eq!(hooks.outcomes().waiting, WAITING_MAX as u64);
    fs::write(scene.path("go"), "").unwrap();
    hooks.finish(PATIENCE).await;
    let told = scene.told();
    assert_eq!(told.len(), 1 + WAITING_MAX);
    assert_eq!(told.last(), Some(&line("MASTER")));
    assert_eq!(hooks.outcomes().passed_over, 101 - WAITING_MAX as u64);
}

/// Whether a process runs; one that ended and was not waited for does not.
fn runs(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

#[tokio::test]
async fn whoever_takes_too_long_ends_with_all_its_children() {
    let scene = Scene::new(
        "trap '' TERM\nsleep 1000 &\necho $! > $(dirname $0)/child\necho $$ > $(dirname $0)/own\nsleep 1000",
    );
    let hooks = scene.hooks(Duration::from_secs(5));
    let begin = clock::now();
    hooks.tell(State::Master);
    until("it was ended", || hooks.outcomes().timed_out == 1).await;
    assert!(clock::now().since(begin) >= Duration::from_secs(5));
    for name in ["child", "own"] {
        let pid = fs::read_to_string(scene.path(name)).unwrap();
        until(name, || !runs(pid.trim())).await;
    }
    // The next one has its turn.
    fs::remove_file(scene.path("own")).unwrap();
    hooks.tell(State::Backup);
    let own = || fs::read_to_string(scene.path("own")).unwrap_or_default();
    until("the next one begins", || own().ends_with('\n')).await;
    // An end of the agent does not wait for it, nor leave it behind.
    hooks.finish(Duration::from_millis(100)).await;
    let pid = own();
    until("it ends with the agent", || !runs(pid.trim())).await;
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        lock(&self.0).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn failures_are_counted_and_logged_with_their_exit_code() {
    let lines = Lines::default();
    let written = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || written.clone())
        .with_ansi(false)
        .finish();
    // The runtime of this test has no other thread.
    let _guard = tracing::subscriber::set_default(subscriber);
    let scene = Scene::new("exit 7");
    let failing = scene.hooks(PATIENCE);
    failing.tell(State::Fault);
    failing.finish(PATIENCE).await;
    assert_eq!(failing.outcomes().failed, 1);
    let absent = hooks(&scene.path("absent"), "root", PATIENCE);
    absent.tell(State::Master);
    absent.finish(PATIENCE).await;
    let unknown = hooks(&scene.path("hook"), "no-such-user-here", PATIENCE);
    unknown.tell(State::Master);
    unknown.finish(PATIENCE).await;
    assert_eq!(absent.outcomes().not_started, 1);
    assert_eq!(unknown.outcomes().not_started, 1);
    let log = String::from_utf8(lock(&lines.0).clone()).unwrap();
    for words in [
        "exit status: 7",
        "state=\"FAULT\"",
        "No such file",
        "there is no user",
    ] {
        assert!(log.contains(words), "{words}: {log}");
    }
}

#[tokio::test]
async fn the_command_has_no_privileges_and_a_bare_environment() {
    if !geteuid().is_root() {
        return;
    }
    let scene = Scene::new("");
    // Others may write down what they are told.
    fs::set_permissions(scene.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let told = scene.path("told");
    fs::write(&told, "").unwrap();
    fs::set_permissions(&told, fs::Permissions::from_mode(0o666)).unwrap();
    let body = format!(
        "#!/bin/sh\n{{ id -u; id -G; env; grep -E '^Cap(Eff|Prm|Amb)' /proc/self/status; }} >> {}\n",
        told.display()
    );
    scene.write(&body);
    let nobody = User::from_name("nobody").unwrap().unwrap();
    let hooks = hooks(&scene.path("hook"), "nobody", PATIENCE);
    hooks.tell(State::Master);
    hooks.finish(PATIENCE).await;
    let lines = scene.told();
    assert_eq!(lines[0], nobody.uid.to_string(), "{lines:?}");
    assert_eq!(lines[1], nobody.gid.to_string(), "{lines:?}");
    let capabilities = lines.iter().filter(|line| line.starts_with("Cap"));
    let none = capabilities.filter(|line| line.ends_with("\t0000000000000000"));
    assert_eq!(none.count(), 3, "{lines:?}");
    let variables = lines.iter().filter_map(|line| line.split_once('='));
    let names: Vec<&str> = variables.map(|(name, _)| name).collect();
    assert!(names.contains(&"PATH"), "{lines:?}");
    assert!(
        !names.iter().any(|name| name.starts_with("CARGO")),
        "{names:?}"
    );
}

#[test]
fn roles_in_keepalived_words() {
    use Role::{Active, Init, Maintenance, Off, Pacified, Standby};
    let word = |role, mode| State::of(role, mode).map(State::as_str);
    for (role, state) in [
        (Active, Some("MASTER")),
        (Standby, Some("BACKUP")),
        (Pacified, Some("FAULT")),
        (Maintenance, Some("FAULT")),
        (Init, None),
        (Off, Some("STOP")),
    ] {
        assert_eq!(word(role, Mode::Second), state, "{role:?}");
    }
    assert_eq!(word(Off, Mode::Off), Some("MASTER"));
}
