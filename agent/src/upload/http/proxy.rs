//! Which requests go through a forward proxy, and through which.

use std::net::IpAddr;
use std::sync::Arc;

use hyper::Uri;
use hyper::header::HeaderValue;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};

use crate::config::Proxy;

/// The rules in force.
#[derive(Clone)]
pub(super) struct Proxies(Option<Arc<Matcher>>);

impl Proxies {
    pub(super) fn new(setting: &Proxy) -> Self {
        let matcher = match setting {
            Proxy::Off => None,
            Proxy::Environment => Some(Matcher::from_env()),
            Proxy::Url(url) => {
                let direct = ["NO_PROXY", "no_proxy"].into_iter().find_map(|name| std::env::var(name).ok());
                Some(Matcher::builder().all(url.clone()).no(direct.unwrap_or_default()).build())
            }
        };
        Self(matcher.map(Arc::new))
    }

    /// The proxy before `to`; none before this machine, and before what clouds serve to it by an address of the link.
    pub(super) fn before(&self, to: &Uri) -> Option<Intercept> {
        let matcher = self.0.as_ref().filter(|_| !to.host().is_some_and(is_here))?;
        matcher.intercept(to)
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
    fn what_is_asked_of_this_machine_or_of_its_link_never_goes_through_a_proxy() {
        let rules = Proxies::new(&Proxy::Url("http://proxy:3128".into()));
        for url in [
            "http://localhost:8080/c",
            "http://127.0.0.1/c",
            "http://169.254.170.2/c",
            "http://[fd00:ec2::254]/latest",
            "http://[::1]:80/",
        ] {
            assert!(rules.before(&url.parse().unwrap()).is_none(), "{url}");
        }
        for url in
            ["https://sts.eu-central-1.amazonaws.com/", "http://10.0.0.1:9000/", "http://localhost.plant/"]
        {
            let proxy = rules.before(&url.parse().unwrap()).unwrap();
            assert_eq!(proxy.uri().authority().unwrap(), "proxy:3128", "{url}");
        }
        let away: Uri = "https://sts.eu-central-1.amazonaws.com/".parse().unwrap();
        assert!(Proxies::new(&Proxy::Off).before(&away).is_none());
    }
}
