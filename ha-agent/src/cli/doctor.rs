//! `doctor` and `ping`: commands that look, whether or not an agent runs.

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use tokio::runtime::{Builder, Runtime};
use tokio::time::sleep;

use super::args::{Args, Ping};
use super::{Exit, complain, complain_about, print, print_json};
use crate::config::model::Config;
use crate::doctor::{self, Finding, Verdict, look};
use crate::echo::{self, Source};
use crate::status::model::SCHEMA_VERSION;
use crate::status::render::{self, Style};

/// What `doctor --json` prints.
#[derive(Serialize)]
struct Examined<'a> {
    schema_version: u32,
    verdict: Verdict,
    findings: &'a [Finding],
}

/// `doctor`. Its exit codes are those of monitoring plugins.
pub(super) fn doctor(args: &Args) -> ExitCode {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(exit) => return exit.into(),
    };
    let facts = runtime.block_on(look::look(&args.config, args.socket.as_deref()));
    let findings = doctor::examine(&facts);
    let verdict = doctor::worst(&findings);
    if args.json {
        print_json(&Examined {
            schema_version: SCHEMA_VERSION,
            verdict,
            findings: &findings,
        });
    } else {
        print(&render::findings(&findings, Style::detect()));
    }
    ExitCode::from(match verdict {
        Verdict::Pass => 0,
        Verdict::Warn => 1,
        Verdict::Fail => 2,
        Verdict::Skip => 3,
    })
}

/// What `ping --json` prints.
#[derive(Serialize)]
struct Pinged {
    schema_version: u32,
    host: IpAddr,
    sent: u32,
    received: u32,
    /// Of each request: milliseconds, or null without a reply.
    times_ms: Vec<Option<f64>>,
}

/// `ping`.
pub(super) fn ping(args: &Args, wanted: &Ping) -> Exit {
    let source = match source(args, wanted) {
        Ok(source) => source,
        Err(exit) => return exit,
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(exit) => return exit,
    };
    let mut times = Vec::new();
    for number in 1..=wanted.count {
        let patience = Duration::from_secs(1);
        let length = usize::from(wanted.length).max(echo::SHORTEST);
        let (host, source) = (wanted.host, source.as_ref());
        let answer = runtime.block_on(look::once(host, source, length, patience));
        if !args.json {
            let what = match &answer {
                Ok(took) => format!("{:.3} ms", took.as_secs_f64() * 1000.0),
                Err(why) => why.clone(),
            };
            print(&format!("{host}: {number}: {what}\n"));
        }
        let rest = patience.saturating_sub(answer.as_ref().copied().unwrap_or(patience));
        times.push(answer.ok().map(|took| took.as_secs_f64() * 1000.0));
        if number < wanted.count {
            runtime.block_on(async { sleep(rest).await });
        }
    }
    let received = times.iter().flatten().count();
    let pinged = Pinged {
        schema_version: SCHEMA_VERSION,
        host: wanted.host,
        sent: wanted.count,
        received: u32::try_from(received).unwrap_or(u32::MAX),
        times_ms: times,
    };
    if args.json {
        print_json(&pinged);
    } else {
        print(&format!("{} sent, {received} received\n", pinged.sent));
    }
    if received > 0 { Exit::Ok } else { Exit::Failed }
}

/// The own address of the interface that is named, next to the host.
fn source(args: &Args, wanted: &Ping) -> Result<Option<Source>, Exit> {
    let Some(name) = &wanted.interface else {
        return Ok(None);
    };
    let loaded = Config::load(&args.config).map_err(|problems| {
        complain_about(&problems);
        super::local::blame(&args.config)
    })?;
    let mut interfaces = loaded.config.node.interfaces.iter();
    let Some(interface) = interfaces.find(|interface| interface.name == *name) else {
        complain(
            &format!("no interface is named `{name}`"),
            "take a `name` of node.interfaces",
        );
        return Err(Exit::Failed);
    };
    let Some(own) = interface.own(wanted.host.is_ipv6()) else {
        complain(
            &format!("`{name}` has no address of the family of {}", wanted.host),
            "name another interface, or none",
        );
        return Err(Exit::Failed);
    };
    Ok(Some(Source {
        address: own.address,
        device: interface.device.clone(),
    }))
}

fn runtime() -> Result<Runtime, Exit> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| {
            complain(&error.to_string(), "check the limits of this user");
            Exit::Failed
        })
}
