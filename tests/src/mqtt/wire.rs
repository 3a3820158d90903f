//! MQTT 3.1.1 and 5 control packets, as far as the proxy has to understand them.
//!
//! Pure: bytes in, borrowed views out; and the few packets that the proxy changes or makes. A packet that isn't listed in [`Packet`] is passed through unread.

/// Largest packet the proxy holds in memory, in bytes; beyond it the stream counts as unreadable.
pub const MAX_PACKET: usize = 64 << 20;

const DUP: u8 = 0b1000;
const RECEIVE_MAXIMUM: u8 = 0x21;
const TOPIC_ALIAS: u8 = 0x23;

/// The protocol spoken on a connection, from its CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1 and 3.1.1: packets without properties.
    V3,
    /// MQTT 5: packets with properties and reason codes.
    V5,
}

/// Bytes that aren't MQTT, or MQTT that breaks its own rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The remaining length takes more than four bytes.
    #[error("remaining length of more than four bytes: the stream isn't MQTT or lost its framing")]
    Length,
    /// The packet is larger than [`MAX_PACKET`].
    #[error("packet of {0} bytes, more than the {MAX_PACKET} the proxy holds")]
    TooLarge(usize),
    /// The body ends before its fields do.
    #[error("packet of type {0} ends before its fields do")]
    Short(u8),
    /// A property id that MQTT 5 doesn't define.
    #[error("unknown MQTT 5 property {0:#04x}")]
    Property(u8),
    /// A string that isn't UTF-8.
    #[error("packet of type {0} holds a string that isn't UTF-8")]
    Text(u8),
}

/// One whole packet as it stands in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Type in the high, flags in the low four bits.
    pub first: u8,
    /// What follows the fixed header.
    pub body: &'a [u8],
    /// Length of fixed header and body, in bytes.
    pub len: usize,
}

/// What a packet says, borrowed from its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// A client introduces itself.
    Connect {
        /// Protocol of everything that follows on the connection.
        version: Version,
        /// The client's id, empty when the broker is to choose one.
        client_id: &'a str,
        /// Clean session (3.1.1) or clean start (5).
        clean: bool,
        /// Unanswered QoS 1 messages that the client is ready to have.
        receive_maximum: u16,
    },
    /// The broker's answer to it.
    Connack {
        /// Whether the broker goes on with an earlier session.
        session_present: bool,
        /// Zero is success.
        code: u8,
    },
    /// A message.
    Publish {
        /// Sent before, under the same packet id.
        dup: bool,
        /// 0, 1 or 2.
        qos: u8,
        /// Kept by the broker from before the subscription.
        retain: bool,
        /// Empty when only `alias` names the topic.
        topic: &'a str,
        /// MQTT 5 topic alias.
        alias: Option<u16>,
        /// Absent for QoS 0.
        packet_id: Option<u16>,
        /// The property block of MQTT 5, without its length.
        properties: &'a [u8],
        /// The application's bytes.
        payload: &'a [u8],
    },
    /// The receiver of a QoS 1 message answers for it.
    Puback {
        /// Id of the PUBLISH.
        packet_id: u16,
        /// Zero or 0x10 is success, 0x80 and above is refusal (MQTT 5).
        reason: u8,
    },
    /// A client asks for topics.
    Subscribe {
        /// Id that the SUBACK repeats.
        packet_id: u16,
    },
    /// The broker's answer to it.
    Suback {
        /// Id of the SUBSCRIBE.
        packet_id: u16,
        /// Whether the broker granted every filter.
        granted: bool,
    },
    /// Anything else, passed through unread.
    Other,
}

/// The first whole packet in `bytes`, or `None` when more must be read.
///
/// # Errors
/// When the fixed header can't be one, or announces more than [`MAX_PACKET`].
pub fn next_frame(bytes: &[u8]) -> Result<Option<Frame<'_>>, WireError> {
    let Some((&first, rest)) = bytes.split_first() else { return Ok(None) };
    let Some((length, header)) = variable_length(rest)? else { return Ok(None) };
    if length > MAX_PACKET {
        return Err(WireError::TooLarge(length));
    }
    let len = 1 + header + length;
    Ok(bytes.get(1 + header..len).map(|body| Frame { first, body, len }))
}

/// What `frame` says when `version` is spoken.
///
/// # Errors
/// When the body is shorter than its fields, or holds what MQTT doesn't allow.
pub fn decode(frame: Frame<'_>, version: Version) -> Result<Packet<'_>, WireError> {
    let mut fields = Fields { kind: frame.first >> 4, rest: frame.body };
    match fields.kind {
        1 => connect(&mut fields),
        2 => {
            let session_present = fields.byte()? & 1 == 1;
            Ok(Packet::Connack { session_present, code: fields.byte()? })
        }
        3 => publish(frame.first, &mut fields, version),
        4 => {
            let packet_id = fields.number()?;
            // MQTT 5 leaves the reason out when it is success.
            let reason = if version == Version::V5 { fields.byte().unwrap_or(0) } else { 0 };
            Ok(Packet::Puback { packet_id, reason })
        }
        8 => Ok(Packet::Subscribe { packet_id: fields.number()? }),
        9 => {
            let packet_id = fields.number()?;
            if version == Version::V5 {
                fields.properties()?;
            }
            Ok(Packet::Suback { packet_id, granted: fields.rest.iter().all(|&code| code < 0x80) })
        }
        _ => Ok(Packet::Other),
    }
}

fn connect<'a>(fields: &mut Fields<'a>) -> Result<Packet<'a>, WireError> {
    fields.bytes()?; // protocol name
    let version = if fields.byte()? == 5 { Version::V5 } else { Version::V3 };
    let clean = fields.byte()? & 0b10 != 0;
    fields.number()?; // keep alive
    let properties = if version == Version::V5 { fields.properties()? } else { Properties::default() };
    let receive_maximum = properties.receive_maximum.unwrap_or(u16::MAX);
    Ok(Packet::Connect { version, client_id: fields.text()?, clean, receive_maximum })
}

fn publish<'a>(first: u8, fields: &mut Fields<'a>, version: Version) -> Result<Packet<'a>, WireError> {
    let qos = (first >> 1) & 0b11;
    let topic = fields.text()?;
    let packet_id = if qos > 0 { Some(fields.number()?) } else { None };
    let properties = if version == Version::V5 { fields.properties()? } else { Properties::default() };
    let (dup, retain) = (first & DUP != 0, first & 1 != 0);
    let Properties { alias, block, .. } = properties;
    Ok(Packet::Publish { dup, qos, retain, topic, alias, packet_id, properties: block, payload: fields.rest })
}

/// A whole packet: `first`, its remaining length, `body`.
#[must_use]
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(body.len() + 5);
    bytes.push(first);
    put_variable(&mut bytes, body.len());
    bytes.extend_from_slice(body);
    bytes
}

/// The PUBLISH or PUBACK in `frame` under another packet id, a PUBLISH also with DUP as given. Anything else, and a
/// PUBLISH without id, comes back unchanged.
#[must_use]
pub fn renamed(frame: Frame<'_>, id: u16, dup: bool) -> Vec<u8> {
    let mut body = frame.body.to_vec();
    let mut first = frame.first;
    let at = match first >> 4 {
        3 if (first >> 1) & 0b11 > 0 => {
            first = if dup { first | DUP } else { first & !DUP };
            // Behind the topic and its length.
            body.first_chunk::<2>().map(|length| 2 + usize::from(u16::from_be_bytes(*length)))
        }
        4 => Some(0),
        _ => None,
    };
    if let Some(place) = at.and_then(|at| body.get_mut(at..at + 2)) {
        place.copy_from_slice(&id.to_be_bytes());
    }
    packet(first, &body)
}

/// A QoS 1 PUBLISH made anew. `properties` are those of an earlier one; a topic alias in them is left out, because the
/// topic is named.
///
/// # Errors
/// When `properties` can't be read.
pub fn publish_again(
    version: Version,
    (id, dup, retain): (u16, bool, bool),
    topic: &str,
    properties: &[u8],
    payload: &[u8],
) -> Result<Vec<u8>, WireError> {
    let mut body = Vec::with_capacity(topic.len() + payload.len() + properties.len() + 8);
    body.extend(u16::try_from(topic.len()).unwrap_or(u16::MAX).to_be_bytes());
    body.extend_from_slice(topic.as_bytes());
    body.extend(id.to_be_bytes());
    if version == Version::V5 {
        let mut kept = Vec::with_capacity(properties.len());
        let mut block = Fields { kind: 3, rest: properties };
        while !block.rest.is_empty() {
            let before = block.rest;
            if block.property()?.0 != TOPIC_ALIAS {
                kept.extend_from_slice(before.get(..before.len() - block.rest.len()).unwrap_or_default());
            }
        }
        put_variable(&mut body, kept.len());
        body.extend_from_slice(&kept);
    }
    body.extend_from_slice(payload);
    Ok(packet(0x32 | if dup { DUP } else { 0 } | u8::from(retain), &body))
}

/// The SUBSCRIBE in `frame` with retain handling 0 in each of its filters: send retained messages at each SUBSCRIBE.
///
/// # Errors
/// When its body can't be read.
pub fn with_retained(frame: Frame<'_>, version: Version) -> Result<Vec<u8>, WireError> {
    let mut body = frame.body.to_vec();
    if version == Version::V5 {
        let mut fields = Fields { kind: 8, rest: frame.body };
        fields.number()?;
        fields.properties()?;
        while !fields.rest.is_empty() {
            fields.bytes()?;
            let at = frame.body.len() - fields.rest.len();
            fields.byte()?;
            if let Some(options) = body.get_mut(at) {
                *options &= !0b11_0000;
            }
        }
    }
    Ok(packet(frame.first, &body))
}

fn put_variable(bytes: &mut Vec<u8>, mut rest: usize) {
    loop {
        let low = (rest & 0x7f) as u8;
        rest >>= 7;
        bytes.push(if rest > 0 { low | 0x80 } else { low });
        if rest == 0 {
            return;
        }
    }
}

/// The variable byte integer at the start of `bytes` and how many bytes it takes; `None` when more must be read.
fn variable_length(bytes: &[u8]) -> Result<Option<(usize, usize)>, WireError> {
    let mut value = 0;
    for (index, &byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((value, index + 1)));
        }
    }
    if bytes.len() < 4 { Ok(None) } else { Err(WireError::Length) }
}

/// Fields still to be read from a body.
struct Fields<'a> {
    kind: u8,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(WireError::Short(self.kind))?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, WireError> {
        self.take(1)?.first().copied().ok_or(WireError::Short(self.kind))
    }

    fn number(&mut self) -> Result<u16, WireError> {
        Ok(u16::from_be_bytes([self.byte()?, self.byte()?]))
    }

    fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let len = self.number()?;
        self.take(usize::from(len))
    }

    fn text(&mut self) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| WireError::Text(self.kind))
    }

    fn variable(&mut self) -> Result<usize, WireError> {
        let (value, len) = variable_length(self.rest)?.ok_or(WireError::Short(self.kind))?;
        self.take(len)?;
        Ok(value)
    }

    /// Reads a property block.
    fn properties(&mut self) -> Result<Properties<'a>, WireError> {
        let len = self.variable()?;
        let mut block = Fields { kind: self.kind, rest: self.take(len)? };
        let mut properties = Properties { block: block.rest, ..Properties::default() };
        while !block.rest.is_empty() {
            match block.property()? {
                (TOPIC_ALIAS, alias) => properties.alias = alias,
                (RECEIVE_MAXIMUM, maximum) => properties.receive_maximum = maximum,
                _ => {}
            }
        }
        Ok(properties)
    }

    /// Reads one property: its id, and its value where that is a number of two bytes.
    fn property(&mut self) -> Result<(u8, Option<u16>), WireError> {
        let id = self.byte()?;
        let mut value = None;
        match id {
            0x13 | RECEIVE_MAXIMUM | 0x22 | TOPIC_ALIAS => value = Some(self.number()?),
            0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2a => _ = self.take(1)?,
            0x02 | 0x11 | 0x18 | 0x27 => _ = self.take(4)?,
            0x0b => _ = self.variable()?,
            0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => _ = self.bytes()?,
            0x26 => _ = (self.bytes()?, self.bytes()?),
            other => return Err(WireError::Property(other)),
        }
        Ok((id, value))
    }
}

/// What the proxy needs of a property block.
#[derive(Default)]
struct Properties<'a> {
    block: &'a [u8],
    alias: Option<u16>,
    receive_maximum: Option<u16>,
}
