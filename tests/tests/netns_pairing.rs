//! A bare machine becomes the second node of a pair with one command on each side, and what becomes of codes that are
//! wrong, old, used, or carried to a machine that does not fit.

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitCode, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ha_agent::events::EventPage;
use ha_agent::fault;
use ha_agent::pairing::code::Code;
use ha_agent::status::model::Role;
use ha_tests::clock::now_ns;
use ha_tests::demo::SERVICE;
use ha_tests::rig::config::PairConfig;
use ha_tests::rig::locate;
use ha_tests::rig::pair::{Node, Pair};
use ha_tests::traffic::load::Load;
use nix::sched::{CloneFlags, setns};

/// TCP port of the configuration channel.
const CHANNEL: u16 = 6973;
/// How long anything may take that takes a moment.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    common::run(
        &["ip", "nft"],
        &["ha-agent", "ha-demo", "ha-faulty"],
        &[
            ("a_bare_machine_becomes_the_second_node", joins),
            ("wrong_used_and_old_codes_give_nothing", codes),
            ("a_machine_that_does_not_fit_stays_bare", unfit),
            ("a_crash_while_joining_leaves_no_half_node", crash),
        ],
    )
}

/// The first node alone, and a bare box beside it.
fn half() -> Result<Pair> {
    let mut pair = Pair::build(PairConfig {
        timeout: Duration::from_secs(1),
        ..PairConfig::default()
    })?;
    pair.nodes[0].start()?;
    pair.replace_box(1)?;
    pair.nodes[0].wait_role(Role::Active, PATIENCE)?;
    Ok(pair)
}

/// A program that runs inside a node's host.
fn inside(node: &Node, program: &str, words: &[&str]) -> Result<Command> {
    let mut command = Command::new(locate::program(program)?);
    command.args(words).arg("-f").arg(node.config_file());
    let netns = fs::File::open(node.netns.path())?;
    // SAFETY: between fork and exec only `setns`, a system call, is made; nothing allocates.
    unsafe {
        use std::os::unix::process::CommandExt as _;
        command.pre_exec(move || Ok(setns(&netns, CloneFlags::CLONE_NEWNET)?));
    }
    Ok(command)
}

/// `ha-agent pair offer` that waits for somebody.
struct Offer {
    child: Child,
    output: BufReader<ChildStdout>,
    address: String,
    code: String,
}

impl Offer {
    fn start(node: &Node) -> Result<Self> {
        let mut command = inside(node, "ha-agent", &["pair", "offer"])?;
        command.stdin(Stdio::null());
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut output = BufReader::new(child.stdout.take().context("no output")?);
        let mut line = String::new();
        let words: Vec<String> = loop {
            line.clear();
            if output.read_line(&mut line)? == 0 {
                let mut said = String::new();
                child
                    .stderr
                    .take()
                    .context("no errors")?
                    .read_to_string(&mut said)?;
                child.wait()?;
                anyhow::bail!("no code: {said}");
            }
            if let Some(rest) = line.trim().strip_prefix("ha-agent pair join ") {
                break rest.split(' ').map(str::to_owned).collect();
            }
        };
        let [address, code] = words
            .try_into()
            .map_err(|words| anyhow::anyhow!("{words:?}"))?;
        Ok(Self {
            child,
            output,
            address,
            code,
        })
    }

    /// Waits for its end: whether it succeeded, and all that it said.
    fn end(mut self) -> Result<(bool, String)> {
        let end = now_ns() + u64::try_from(PATIENCE.as_nanos())?;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            ensure!(now_ns() < end, "the offer does not end");
            sleep(Duration::from_millis(20));
        };
        let mut said = String::new();
        self.output.read_to_string(&mut said)?;
        let mut errors = self.child.stderr.take().context("no errors")?;
        errors.read_to_string(&mut said)?;
        Ok((status.success(), said))
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// A directory with a `systemctl` that notes what it was asked for.
fn fake_systemctl(node: &Node) -> Result<(String, PathBuf)> {
    let (bin, asked) = (node.dir().join("bin"), node.dir().join("asked"));
    fs::create_dir_all(&bin)?;
    let program = bin.join("systemctl");
    let script = format!("#!/bin/sh\necho \"$@\" >> {}\n", asked.display());
    fs::write(&program, script)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let path = std::env::var("PATH").unwrap_or_default();
    Ok((format!("{}:{path}", bin.display()), asked))
}

fn join(node: &Node, address: &str, code: &str) -> Result<Output> {
    let (path, _) = fake_systemctl(node)?;
    let mut command = inside(
        node,
        "ha-agent",
        &["pair", "join", address, code, "--name", "lb2"],
    )?;
    Ok(command.env("PATH", path).output()?)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned()
}

/// A join that must fail, and leave nothing.
fn refused(node: &Node, address: &str, code: &str, why: &str) -> Result<()> {
    let output = join(node, address, code)?;
    let text = said(&output);
    ensure!(
        !output.status.success() && text.contains(why),
        "{why}: {text}"
    );
    ensure!(text.contains("nothing was"), "{text}");
    bare(node)
}

fn bare(node: &Node) -> Result<()> {
    for file in [node.config_file(), node.dir().join("pair.key")] {
        ensure!(!file.exists(), "{} is there", file.display());
    }
    Ok(())
}

fn joins() -> Result<()> {
    let mut pair = half()?;
    let key = fs::read_to_string(pair.nodes[0].dir().join("pair.key"))?;
    let capture = pair.capture()?;
    let offer = Offer::start(&pair.nodes[0])?;
    let (address, code) = (offer.address.clone(), offer.code.clone());

    // One command on each side.
    let output = join(&pair.nodes[1], &address, &code)?;
    ensure!(output.status.success(), "{}", said(&output));
    let (done, text) = offer.end()?;
    ensure!(
        done && text.contains("lb2 (10.77.2.12) has key and configuration"),
        "{text}"
    );

    // Nothing of it can be read on the way.
    let frames = capture.finish()?;
    let on_channel: Vec<_> = frames
        .iter()
        .filter(|frame| {
            let flow = frame.flow().filter(|flow| flow.protocol == 6);
            flow.is_some_and(|flow| flow.ports.0 == CHANNEL || flow.ports.1 == CHANNEL)
        })
        .collect();
    ensure!(on_channel.len() > 10, "{} frames", on_channel.len());
    let secret = key
        .lines()
        .find_map(|line| line.strip_prefix("1 "))
        .context("no key")?;
    for word in [
        "virtual_services",
        "10.77.2.22",
        secret,
        &code,
        &code.replace('-', ""),
    ] {
        let bytes = word.as_bytes();
        let shown = on_channel
            .iter()
            .any(|frame| frame.bytes.windows(bytes.len()).any(|found| found == bytes));
        ensure!(!shown, "{word} can be read on the way");
    }

    // The same key, for nobody else to read; and the service manager was asked to start the agent.
    let node = &pair.nodes[1];
    let own = node.dir().join("pair.key");
    ensure!(fs::read_to_string(&own)? == key);
    ensure!(fs::metadata(&own)?.permissions().mode() & 0o777 == 0o600);
    ensure!(fs::read_to_string(node.dir().join("asked"))? == "start ha-agent\n");
    node.command(&["check-config"])?;

    // It does, and the pair is whole: the new node is the second one, and has the configuration.
    let load = Load::start(&pair.client, SERVICE, 200)?;
    pair.nodes[1].start()?;
    pair.wait_whole()?;
    pair.wait_in_sync()?;
    ensure!(pair.active()? == 0);
    let shown = |node: &Node| node.command(&["config", "show"]);
    let services = |text: &str| {
        text.split_once("virtual_services:")
            .map(|(_, rest)| rest.to_owned())
    };
    let [first, second] = [shown(&pair.nodes[0])?, shown(&pair.nodes[1])?];
    ensure!(
        services(&first).is_some() && services(&first) == services(&second),
        "{second}"
    );
    ensure!(second.contains("mode: second"), "{second}");
    let page = pair.nodes[0].command(&["events", "--json", "--kind", "paired"])?;
    let page: EventPage = serde_json::from_str(&page)?;
    let [event] = &*page.events else {
        anyhow::bail!("{page:?}")
    };
    ensure!(
        event.what == "key and configuration given to lb2 at 10.77.2.12",
        "{event:?}"
    );
    ensure!(!serde_json::to_string(&page)?.contains(&code));
    let log = pair.nodes[0].log();
    ensure!(
        !log.contains(&code) && !log.contains(secret),
        "a secret in the log"
    );

    // And the pair does what it is for.
    let at = now_ns();
    load.fault_at(at);
    pair.nodes[0].failover()?;
    let (tcp, _) = load.finish(at, pair.config.timeout)?;
    assert_eq!(
        (tcp.survived, tcp.broken_before),
        (tcp.connections, 0),
        "{tcp:#?}"
    );
    // A whole pair takes nobody in, and a node is not made one twice.
    let again = Offer::start(&pair.nodes[0])
        .err()
        .context("offered to a whole pair")?;
    ensure!(
        format!("{again:#}").contains("this pair is whole"),
        "{again:#}"
    );
    let output = join(&pair.nodes[1], &address, &code)?;
    let text = said(&output);
    ensure!(
        !output.status.success() && text.contains("a configuration already"),
        "{text}"
    );
    Ok(())
}

fn codes() -> Result<()> {
    let pair = half()?;
    let [giver, node] = &pair.nodes;
    let unknown = || -> Result<String> {
        let code = Code::generate().map_err(|_none| anyhow::anyhow!("no random bytes"))?;
        Ok(code.shown().to_string())
    };
    const NOT_KNOWN: &str = "does not know this code";

    // Nobody asked for it.
    refused(node, "10.77.2.11", &unknown()?, NOT_KNOWN)?;
    // Few wrong ones are too many; a slip is not even tried.
    let offer = Offer::start(giver)?;
    let (address, code) = (offer.address.clone(), offer.code.clone());
    let (first, rest) = code.split_at_checked(1).context("a code")?;
    let slip = format!("{rest}{first}");
    if Code::parse(&slip).is_err() {
        let output = join(node, &address, &slip)?;
        ensure!(
            said(&output).contains("nothing was tried"),
            "{}",
            said(&output)
        );
    }
    for _ in 0..5 {
        refused(node, &address, &unknown()?, NOT_KNOWN)?;
    }
    let (done, text) = offer.end()?;
    ensure!(!done && text.contains("too often"), "{text}");
    refused(node, &address, &code, NOT_KNOWN)?;

    // A code is good as long as somebody waits for it.
    let offer = Offer::start(giver)?;
    let code = offer.code.clone();
    drop(offer);
    sleep(Duration::from_secs(8));
    refused(node, &address, &code, NOT_KNOWN)?;
    // A new one makes the one before void, and is good once.
    let old = Offer::start(giver)?;
    let new = Offer::start(giver)?;
    refused(node, &address, &old.code, NOT_KNOWN)?;
    let output = join(node, &address, &new.code)?;
    ensure!(output.status.success(), "{}", said(&output));
    let (done, text) = old.end()?;
    ensure!(
        !done && text.contains("another code has taken its place"),
        "{text}"
    );
    for file in [node.config_file(), node.dir().join("pair.key")] {
        fs::remove_file(file)?;
    }
    refused(node, &address, &new.code, NOT_KNOWN)?;

    // The partner is served all the while, and the role is where it was.
    ensure!(giver.role() == Some(Role::Active));
    let configuration = giver.status()?.configuration.context("no configuration")?;
    ensure!(configuration.channel.malformed == 0);
    Ok(())
}

fn unfit() -> Result<()> {
    let pair = half()?;
    let [giver, node] = &pair.nodes;
    // An address that the other node expects is not there.
    node.netns.ip("addr del 10.77.1.12/24 dev front")?;
    let offer = Offer::start(giver)?;
    let (address, code) = (offer.address.clone(), offer.code.clone());
    refused(
        node,
        &address,
        &code,
        "no device of this machine has 10.77.1.12/24",
    )?;
    let (done, text) = offer.end()?;
    ensure!(
        !done && text.contains("could not use it, and has nothing"),
        "{text}"
    );
    // Another key is in its place: nothing is lost.
    node.netns.ip("addr add 10.77.1.12/24 dev front")?;
    let key = node.dir().join("pair.key");
    fs::write(&key, "# Somebody's.\n")?;
    let offer = Offer::start(giver)?;
    let output = join(node, &address, &offer.code)?;
    let text = said(&output);
    ensure!(
        !output.status.success() && text.contains("another key is here"),
        "{text}"
    );
    ensure!(fs::read_to_string(&key)? == "# Somebody's.\n" && !node.config_file().exists());
    fs::remove_file(&key)?;
    // No room: nothing is left behind.
    let offer = Offer::start(giver)?;
    let full = node.dir().join("ha-agent.yaml.new");
    fs::create_dir(&full)?;
    let output = join(node, &address, &offer.code)?;
    let text = said(&output);
    ensure!(
        !output.status.success() && text.contains("nothing was changed"),
        "{text}"
    );
    bare(node)?;
    fs::remove_dir(&full)?;
    let offer = Offer::start(giver)?;
    let output = join(node, &address, &offer.code)?;
    ensure!(output.status.success(), "{}", said(&output));
    Ok(())
}

fn crash() -> Result<()> {
    let pair = half()?;
    let [giver, node] = &pair.nodes;
    let (path, _) = fake_systemctl(node)?;
    for point in fault::JOIN {
        let offer = Offer::start(giver)?;
        let words = [
            "pair",
            "join",
            &*offer.address,
            &*offer.code,
            "--name",
            "lb2",
        ];
        let mut command = inside(node, "ha-faulty", &words)?;
        let output = command
            .env(fault::VARIABLE, point)
            .env("PATH", &path)
            .output()?;
        ensure!(
            output.status.code().is_none(),
            "at {point}: {}",
            said(&output)
        );
        let (done, text) = offer.end()?;
        ensure!(!done && text.contains("did not say"), "at {point}: {text}");
        if point == "join_in_place" {
            node.command(&["check-config"])?;
            fs::remove_file(node.config_file())?;
        }
        ensure!(!node.config_file().exists(), "half a node after {point}");
        // Another code makes a whole one of it.
        let offer = Offer::start(giver)?;
        let output = join(node, &offer.address, &offer.code)?;
        ensure!(output.status.success(), "after {point}: {}", said(&output));
        let (done, text) = offer.end()?;
        ensure!(done, "after {point}: {text}");
        node.command(&["check-config"])?;
        for file in [node.config_file(), node.dir().join("pair.key")] {
            fs::remove_file(file)?;
        }
    }
    ensure!(giver.role() == Some(Role::Active));
    Ok(())
}
