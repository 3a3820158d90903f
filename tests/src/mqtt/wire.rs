//! MQTT 3.1.1 and 5 control packets, as far as the proxy has to understand them.
//!
//! Pure: bytes in, borrowed views out. A packet that isn't listed in [`Packet`] is passed through unread.

/// Largest packet the proxy holds in memory, in bytes; beyond it the stream counts as unreadable.
pub const MAX_PACKET: usize = 64 << 20;

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
    if version == Version::V5 {
        fields.properties()?;
    }
    Ok(Packet::Connect { version, client_id: fields.text()?, clean })
}

fn publish<'a>(first: u8, fields: &mut Fields<'a>, version: Version) -> Result<Packet<'a>, WireError> {
    let qos = (first >> 1) & 0b11;
    let topic = fields.text()?;
    let packet_id = if qos > 0 { Some(fields.number()?) } else { None };
    let alias = if version == Version::V5 { fields.properties()? } else { None };
    let (dup, retain) = (first & 0b1000 != 0, first & 1 != 0);
    Ok(Packet::Publish { dup, qos, retain, topic, alias, packet_id, payload: fields.rest })
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

    /// Reads the property block and returns the topic alias, the only property the proxy needs.
    fn properties(&mut self) -> Result<Option<u16>, WireError> {
        let len = self.variable()?;
        let mut block = Fields { kind: self.kind, rest: self.take(len)? };
        let mut alias = None;
        while !block.rest.is_empty() {
            match block.byte()? {
                0x23 => alias = Some(block.number()?),
                0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2a => _ = block.take(1)?,
                0x13 | 0x21 | 0x22 => _ = block.take(2)?,
                0x02 | 0x11 | 0x18 | 0x27 => _ = block.take(4)?,
                0x0b => _ = block.variable()?,
                0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => _ = block.bytes()?,
                0x26 => _ = (block.bytes()?, block.bytes()?),
                other => return Err(WireError::Property(other)),
            }
        }
        Ok(alias)
    }
}
