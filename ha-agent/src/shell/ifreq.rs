//! The structure by which ioctls name an interface.

/// A request about a device; everything but its name is zero. A name that is too long for an interface is
/// cut, so that none has it.
pub(super) fn ifreq(device: &str) -> libc::ifreq {
    // SAFETY: zeros are valid for all of the structure: integers, and a pointer that may be null.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let name = device.bytes().take(request.ifr_name.len() - 1);
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = from.cast_signed();
    }
    request
}
