//! What a network driver says of its device, through the ethtool ioctl: it asks the network namespace of
//! its caller, which sysfs does not.

use std::ffi::c_ulong;
use std::io;
use std::os::fd::AsRawFd as _;

use socket2::{Domain, Socket, Type};

use super::ifreq::ifreq;

/// `SIOCETHTOOL` of `linux/sockios.h`.
const REQUEST: c_ulong = 0x8946;
/// Commands of `linux/ethtool.h`, and the length of what they fill in.
const SETTINGS: (u32, usize) = (0x1, 44);
const DRIVER: (u32, usize) = (0x3, 196);
const FLAGS: (u32, usize) = (0x25, 8);
const CHANNELS: (u32, usize) = (0x3c, 36);
/// `ETH_FLAG_LRO`.
const LRO: u32 = 1 << 15;
/// `SPEED_UNKNOWN` in the two halves of the field.
const UNKNOWN: [u16; 2] = [0xffff, 0xffff];

/// What is known; each part only if the driver tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Name of the driver.
    pub driver: Option<String>,
    /// Megabits a second.
    pub speed: Option<u32>,
    /// `full` or `half`.
    pub duplex: Option<&'static str>,
    /// Receive queues in use.
    pub queues: Option<u32>,
    /// Whether received packets are put together (LRO).
    pub merges: Option<bool>,
}

/// Asks about a device.
pub fn ask(device: &str) -> io::Result<Device> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let mut found = Device::default();
    let about = |what| command(&socket, device, what);
    if let Ok(answer) = about(DRIVER) {
        // Command, then the name in 32 bytes.
        let name = answer.get(4..36).unwrap_or_default();
        let name: Vec<u8> = name.iter().copied().take_while(|byte| *byte != 0).collect();
        found.driver = String::from_utf8(name).ok().filter(|name| !name.is_empty());
    }
    if let Ok(answer) = about(SETTINGS) {
        // The lower half of the speed at 12, the upper at 28, duplex at 14.
        let half = |at: usize| {
            let bytes = answer.get(at..at + 2)?;
            Some(u16::from_ne_bytes([*bytes.first()?, *bytes.last()?]))
        };
        if let (Some(low), Some(high)) = (half(12), half(28))
            && [low, high] != UNKNOWN
        {
            found.speed = Some(u32::from(high) << 16 | u32::from(low)).filter(|speed| *speed > 0);
        }
        found.duplex = match answer.get(14) {
            Some(0) => Some("half"),
            Some(1) => Some("full"),
            _ => None,
        };
    }
    // Receive queues in use at 20, those that also transmit at 32.
    if let Ok(answer) = about(CHANNELS)
        && let (Some(receive), Some(combined)) = (word(&answer, 20), word(&answer, 32))
    {
        found.queues = Some(receive.saturating_add(combined)).filter(|queues| *queues > 0);
    }
    if let Ok(answer) = about(FLAGS) {
        found.merges = word(&answer, 4).map(|flags| flags & LRO != 0);
    }
    Ok(found)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}

fn command(socket: &Socket, device: &str, (command, length): (u32, usize)) -> io::Result<Vec<u8>> {
    let mut request = ifreq(device);
    let mut data = vec![0_u64; length.div_ceil(size_of::<u64>())];
    if let Some(first) = data.first_mut() {
        let mut bytes = [0; 8];
        if let Some(head) = bytes.first_chunk_mut() {
            *head = command.to_ne_bytes();
        }
        *first = u64::from_ne_bytes(bytes);
    }
    request.ifr_ifru.ifru_data = data.as_mut_ptr().cast();
    // SAFETY: the kernel reads the request and fills in the structure of the command, which `data` has
    // room for, and neither outlives this call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), REQUEST, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(data.iter().flat_map(|word| word.to_ne_bytes()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_not_known() {
        assert_eq!(ask("no-such-device").unwrap(), Device::default());
        assert_eq!(ask("").unwrap(), Device::default());
        assert_eq!(ask("lo").unwrap().merges, Some(false));
    }
}
