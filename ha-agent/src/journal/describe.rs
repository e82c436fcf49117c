//! What a packet says, in a few words.

use std::fmt::Write as _;

use ha_common::carp::{HEADER_LEN, TRAILER_MAGIC, trailer_flags};

use crate::proto::carp::trailer::Body;
use crate::proto::carp::wire::Header;

/// An advertisement, whether or not it would be believed.
pub(super) fn advert(payload: &[u8]) -> String {
    let mut text = match Header::decode(payload) {
        Ok(Header {
            advbase: 255,
            advskew: 255,
            ..
        }) => "bow-out".to_owned(),
        Ok(header) => format!("base {} skew {}", header.advbase, header.advskew),
        Err(error) => return error.to_string(),
    };
    let trailer = payload.get(HEADER_LEN..).unwrap_or_default();
    if trailer.first_chunk() == Some(&TRAILER_MAGIC) {
        text.push(' ');
        text.push_str(&hello(trailer));
    }
    text
}

/// A HELLO, or a trailer.
pub(super) fn hello(payload: &[u8]) -> String {
    let body = match Body::peek(payload) {
        Ok(body) => body,
        Err(error) => return error.to_string(),
    };
    let mut text = format!(
        "{:?} term {} epoch {:04x} seq {}",
        body.role,
        body.term,
        body.epoch & 0xffff,
        body.sequence
    )
    .to_lowercase();
    if body.echo_epoch != 0 {
        let (epoch, sequence) = (body.echo_epoch & 0xffff, body.echo_sequence);
        // Writing to a string cannot fail.
        let _infallible = write!(text, " echo {epoch:04x}/{sequence}");
    }
    for (flag, name) in [
        (trailer_flags::RELEASE, " release"),
        (trailer_flags::ASK, " ask"),
        (trailer_flags::HAND_OVER, " hand-over"),
        (trailer_flags::REEXEC_ASK, " reexec-ask"),
        (trailer_flags::REEXEC_GRANT, " reexec-grant"),
    ] {
        if body.flags & flag != 0 {
            text.push_str(name);
        }
    }
    if body.ready {
        text.push_str(" ready");
    }
    text
}
