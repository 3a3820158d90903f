//! Which requests go through a forward proxy, and through which.

use std::net::IpAddr;
use std::sync::Arc;

use hyper::Uri;
use hyper::header::HeaderValue;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};

use crate::config::Proxy;

/// What a client asks, as far as proxies are concerned.
#[derive(Debug, Clone)]
pub struct Reach {
    /// The setting.
    pub proxy: Proxy,
    /// Never through a proxy: this machine, and what clouds serve to it by an address of the link. Keys are asked for
    /// there.
    pub here_directly: bool,
}

/// The rules in force.
#[derive(Clone)]
pub(super) struct Proxies {
    matcher: Option<Arc<Matcher>>,
    here_directly: bool,
}

impl Proxies {
    pub(super) fn new(reach: &Reach) -> Self {
        let matcher = match &reach.proxy {
            Proxy::Off => None,
            Proxy::Environment => Some(Matcher::from_env()),
            Proxy::Url(url) => {
                let direct = ["NO_PROXY", "no_proxy"].into_iter().find_map(|name| std::env::var(name).ok());
                Some(Matcher::builder().all(url.clone()).no(direct.unwrap_or_default()).build())
            }
        };
        Self { matcher: matcher.map(Arc::new), here_directly: reach.here_directly }
    }

    /// The proxy before `to`.
    pub(super) fn before(&self, to: &Uri) -> Option<Intercept> {
        if self.here_directly && to.host().is_some_and(is_here) {
            return None;
        }
        self.matcher.as_ref()?.intercept(to)
    }

    /// The name and password that the proxy before `to` wants in the request itself: where that is tunnelled, it gets
    /// them before.
    pub(super) fn authorization(&self, to: &Uri) -> Option<HeaderValue> {
        let plain = to.scheme_str() == Some("http");
        self.before(to).filter(|_| plain)?.basic_auth().cloned()
    }
}

/// This machine, or an address that means nothing behind the next router.
fn is_here(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => address.is_loopback() || address.is_link_local(),
        // fd00:ec2::/32 is where AWS serves an instance over IPv6.
        Ok(IpAddr::V6(address)) => {
            address.is_loopback()
                || address.is_unicast_link_local()
                || address.segments()[..2] == [0xfd00, 0xec2]
        }
        Err(_) => bare.eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_keys_on_this_machine_never_goes_through_a_proxy() {
        let rules = |here_directly| {
            Proxies::new(&Reach { proxy: Proxy::Url("http://proxy:3128".into()), here_directly })
        };
        for url in [
            "http://localhost:8080/c",
            "http://127.0.0.1/c",
            "http://169.254.170.2/c",
            "http://[fd00:ec2::254]/latest",
            "http://[::1]:80/",
        ] {
            let to: Uri = url.parse().unwrap();
            assert!(rules(true).before(&to).is_none(), "{url}");
            assert!(rules(false).before(&to).is_some(), "{url}");
        }
        let away: Uri = "https://sts.eu-central-1.amazonaws.com/".parse().unwrap();
        let proxy = rules(true).before(&away).unwrap();
        assert_eq!(proxy.uri().authority().unwrap(), "proxy:3128");
        assert!(Proxies::new(&Reach { proxy: Proxy::Off, here_directly: false }).before(&away).is_none());
    }
}
