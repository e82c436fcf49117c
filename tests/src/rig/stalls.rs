//! The machine's own stalls: a thread that wants to run every millisecond and notes when it could
//! not. Figures measured during a stall say something about the machine, not about the pair.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Result;

use crate::clock::now_ns;

const PERIOD: Duration = Duration::from_millis(1);
/// Shorter delays are ordinary scheduling.
const WORTH_NOTING_NS: u64 = 10_000_000;

/// A time in which the machine did not run the thread.
#[derive(Clone, Copy, Debug)]
pub struct Stall {
    /// When it began.
    pub from_ns: u64,
    /// When it was over.
    pub to_ns: u64,
}

/// The running detector.
#[derive(Debug)]
pub struct StallDetector {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Stall>>>,
}

impl StallDetector {
    /// Starts it.
    pub fn start() -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("stalls".to_owned())
            .spawn(move || watch(&flag))?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// Ends it; all stalls of 10 ms and more.
    pub fn finish(mut self) -> Vec<Stall> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .take()
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default()
    }
}

impl Drop for StallDetector {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn watch(stop: &AtomicBool) -> Vec<Stall> {
    let mut stalls = Vec::new();
    let mut last = now_ns();
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(PERIOD);
        let now = now_ns();
        if now - last >= WORTH_NOTING_NS {
            stalls.push(Stall {
                from_ns: last,
                to_ns: now,
            });
        }
        last = now;
    }
    stalls
}
