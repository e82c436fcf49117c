//! A capture of what the data plane sends, for whoever asks for it.
//!
//! XDP shows one packet in so many, as long as it is told to. A capture is a session that lives from one
//! request of its client to the next: when the client is gone, nobody asks any more, and the data plane is
//! told to stop. It costs the data plane a comparison for each packet, and a copy for each one shown.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ha_common::event::Sample;
use ha_common::reason::{Reason, Tally};
use tokio::time::sleep;
use tracing::{info, warn};

use super::agent::lock;
use super::clock;
use crate::control::{CaptureRequest, Refusal, Reply};
use crate::datapath::{DatapathError, Settings};
use crate::proto::time::Instant;
use crate::status::capture::{Captured, Packet};

/// How long a capture goes on without a request.
const LEASE: Duration = Duration::from_secs(2);
/// Pause before the data plane is told again to stop, if it could not be.
const RETRY: Duration = Duration::from_secs(1);

/// The capture that is running, if one is.
pub struct Capture {
    settings: Arc<Settings>,
    running: Mutex<Option<Running>>,
}

struct Running {
    session: u64,
    /// Without another request it ends then.
    until: Instant,
    /// Packets lost before it began.
    lost_before: u64,
}

impl Capture {
    /// None is running.
    pub fn new(settings: Arc<Settings>) -> Arc<Self> {
        Arc::new(Self {
            settings,
            running: Mutex::default(),
        })
    }

    /// Begins a capture, goes on with it, or ends it; `devices` are names by index.
    pub(super) fn request(
        self: &Arc<Self>,
        request: CaptureRequest,
        devices: &BTreeMap<u32, String>,
    ) -> Reply<Captured> {
        let now = clock::now();
        let mut running = lock(&self.running);
        let other = |running: &Running| running.session != request.session;
        if running.as_ref().is_some_and(other) {
            return Err(Refusal::new(
                "a capture is running already",
                "wait until it ends",
            ));
        }
        self.take(&mut running, request, now, devices)
            .map_err(|error| {
                Refusal::new(
                    error.to_string(),
                    "see whether the pins under node.bpf_dir are still there",
                )
            })
    }

    fn take(
        self: &Arc<Self>,
        running: &mut Option<Running>,
        request: CaptureRequest,
        now: Instant,
        devices: &BTreeMap<u32, String>,
    ) -> Result<Captured, DatapathError> {
        let lost = self.lost()?;
        let samples = self.settings.datapath().samples()?;
        let until = now + LEASE;
        let Some(known) = running else {
            // What is in the ring is of an earlier one.
            if request.every > 0 {
                info!(every = request.every, "capture begins");
                self.settings
                    .update(|config| config.sample_every = request.every)?;
                *running = Some(Running {
                    session: request.session,
                    until,
                    lost_before: lost,
                });
                tokio::spawn(Arc::clone(self).watch());
            }
            return Ok(Captured::default());
        };
        known.until = until;
        let lost = lost.wrapping_sub(known.lost_before);
        if request.every == 0 {
            self.stop()?;
            *running = None;
        }
        let epoch = clock::wall();
        let packets = samples.iter().map(|sample| {
            let age = now.since(Instant::from_nanos(sample.at_ns));
            packet(sample, epoch.saturating_sub(age), devices)
        });
        Ok(Captured {
            packets: packets.collect(),
            lost,
        })
    }

    /// Ends the capture when its client does not ask any more.
    async fn watch(self: Arc<Self>) {
        loop {
            let pause = {
                let mut running = lock(&self.running);
                let Some(known) = &*running else { return };
                let left = known.until.since(clock::now());
                if left.is_zero() {
                    match self.stop() {
                        Ok(()) => {
                            *running = None;
                            return;
                        }
                        Err(error) => {
                            warn!(%error, "the data plane was not told that a capture is over; trying again");
                            RETRY
                        }
                    }
                } else {
                    left
                }
            };
            sleep(pause).await;
        }
    }

    fn stop(&self) -> Result<(), DatapathError> {
        self.settings.update(|config| config.sample_every = 0)?;
        info!("capture ended");
        Ok(())
    }

    fn lost(&self) -> Result<u64, DatapathError> {
        let counters = self.settings.datapath().counters()?;
        let lost = counters.get(Tally::SampleLost.index() as usize);
        Ok(lost.copied().unwrap_or_default())
    }
}

fn packet(sample: &Sample, at: Duration, devices: &BTreeMap<u32, String>) -> Packet {
    let device = devices.get(&sample.ifindex);
    let reason = Reason::ALL.get(sample.reason as usize);
    let kept = sample.frame.get(..sample.kept as usize);
    Packet {
        unix_ns: u64::try_from(at.as_nanos()).unwrap_or(u64::MAX),
        device: device.map_or_else(|| format!("index {}", sample.ifindex), String::clone),
        reason: reason.map_or("", |reason| reason.as_str()).to_owned(),
        length: sample.len,
        bytes: kept.unwrap_or(&sample.frame).to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::fake::Fake;
    use ha_common::control::Config;
    use ha_common::event::SAMPLE_BYTES;

    fn sample(len: u32, kept: u32) -> Sample {
        Sample {
            at_ns: clock::now().as_nanos(),
            ifindex: 3,
            reason: Reason::ForwardTransmit as u32,
            len,
            kept,
            frame: [7; SAMPLE_BYTES],
        }
    }

    fn capture() -> (Arc<Fake>, Arc<Capture>) {
        let fake = Arc::new(Fake::new(16));
        let settings = Settings::new(Arc::<Fake>::clone(&fake), Config::default()).unwrap();
        (fake, Capture::new(Arc::new(settings)))
    }

    fn ask(capture: &Arc<Capture>, session: u64, every: u32) -> Reply<Captured> {
        let devices = BTreeMap::from([(3, "eth3".to_owned())]);
        capture.request(CaptureRequest { session, every }, &devices)
    }

    #[tokio::test]
    async fn a_capture_shows_what_was_sent_since_it_began() {
        let (fake, capture) = capture();
        fake.state().samples.push(sample(60, 60));
        assert_eq!(ask(&capture, 1, 100).unwrap(), Captured::default());
        assert_eq!(fake.state().config.sample_every, 100);
        fake.state().samples.push(sample(1500, 160));
        // More than there is can only be a mistake of the data plane.
        fake.state().samples.push(sample(9000, 9000));
        fake.state().counters[Tally::SampleLost.index() as usize] = 5;
        let captured = ask(&capture, 1, 100).unwrap();
        assert_eq!(captured.lost, 5);
        let [first, second] = &*captured.packets else {
            panic!("{captured:?}");
        };
        assert_eq!((first.length, first.bytes.len()), (1500, 160));
        assert_eq!(first.device, "eth3");
        assert_eq!(first.reason, "forward_transmit");
        assert_eq!(second.bytes.len(), SAMPLE_BYTES);
        let age = clock::wall().saturating_sub(Duration::from_nanos(first.unix_ns));
        assert!(age < Duration::from_mins(1), "{age:?}");

        fake.state().samples.push(sample(60, 60));
        assert_eq!(ask(&capture, 1, 0).unwrap().packets.len(), 1);
        assert_eq!(fake.state().config.sample_every, 0);
    }

    #[tokio::test]
    async fn one_at_a_time() {
        let (_fake, capture) = capture();
        ask(&capture, 1, 100).unwrap();
        assert!(ask(&capture, 2, 100).is_err());
        assert!(ask(&capture, 2, 0).is_err());
        ask(&capture, 1, 0).unwrap();
        ask(&capture, 2, 100).unwrap();
    }

    #[tokio::test]
    async fn a_capture_ends_when_its_client_is_gone() {
        let (fake, capture) = capture();
        let begin = clock::now();
        ask(&capture, 1, 100).unwrap();
        while fake.state().config.sample_every != 0 {
            assert!(clock::now().since(begin) < Duration::from_mins(1));
            sleep(Duration::from_millis(10)).await;
        }
        assert!(clock::now().since(begin) >= LEASE);
        ask(&capture, 2, 10).unwrap();
    }
}
