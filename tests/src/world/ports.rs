//! Free ports on this machine for programs that are killed and come back.

use std::net::TcpListener;

use anyhow::Context;

use super::local;

/// Below the ports that the kernel gives to outgoing connections: while a program is dead, nobody else may get its port,
/// not even a client that looks for it there.
const PORTS: std::ops::Range<u16> = 10_000..32_768;
const TRIES: u32 = 100;

/// A free port of 127.0.0.1, taken as long as the listener lives.
///
/// # Errors
/// When a hundred in a row are taken.
pub fn held() -> anyhow::Result<TcpListener> {
    let mut tries = 0;
    loop {
        match TcpListener::bind(local(fastrand::u16(PORTS))) {
            Ok(listener) => return Ok(listener),
            Err(_) if tries < TRIES => tries += 1,
            Err(error) => return Err(error).context("no free port"),
        }
    }
}

/// Free ports of 127.0.0.1, held until all are known so that they differ.
///
/// # Errors
/// As [`held`].
pub fn free<const N: usize>() -> anyhow::Result<[u16; N]> {
    let mut listeners = Vec::with_capacity(N);
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = held()?;
        *port = listener.local_addr()?.port();
        listeners.push(listener);
    }
    Ok(ports)
}
