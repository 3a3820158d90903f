//! What is asked of a source of keys, and when, by a provider that a test scripts.

use std::collections::VecDeque;
use std::sync::Mutex as Script;
use std::time::SystemTime;

use super::*;
use crate::clock::BUILT;

/// Gives these one after the other, and notes how often it was asked.
#[derive(Debug, Default)]
struct Scripted {
    answers: Script<VecDeque<Option<Credentials>>>,
}

impl ProvideCredentials for Scripted {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let next = self.answers.lock().unwrap().pop_front().expect("asked more often than the script knows");
        let failed = || CredentialsError::provider_error("the place is closed");
        future::ProvideCredentials::ready(next.ok_or_else(failed))
    }
}

fn keys(name: &str, seconds: u64) -> Option<Credentials> {
    let built = Duration::from_micros(BUILT.micros().unsigned_abs());
    let expires = SystemTime::UNIX_EPOCH + built + Duration::from_secs(seconds);
    Some(Credentials::new(name, "hush", Some("hush".into()), Some(expires), "scripted"))
}

fn keeper(answers: impl IntoIterator<Item = Option<Credentials>>) -> Keys {
    Keys::of_provider(Scripted { answers: Script::new(answers.into_iter().collect()) }, Arc::new(|| BUILT))
}

async fn given(keys: &Keys) -> Result<String, String> {
    let given = keys.provide_credentials().await;
    given.map(|keys| keys.access_key_id().to_owned()).map_err(|e| format!("{} {e:?}", chain(&e)))
}

#[tokio::test]
async fn good_keys_are_fetched_once_and_refused_ones_again() {
    let source = keeper([keys("one", 3600), keys("two", 3600)]);
    assert_eq!(given(&source).await.unwrap(), "one");
    assert_eq!(given(&source).await.unwrap(), "one");
    source.refuse();
    assert_eq!(given(&source).await.unwrap(), "two");
    assert_eq!(given(&source).await.unwrap(), "two");
    assert!(!format!("{source:?}").contains("hush"));
}

#[tokio::test]
async fn keys_never_reach_the_sdk_with_a_time_at_which_it_could_find_them_expired() {
    let source = keeper([keys("one", 3600)]);
    assert_eq!(source.provide_credentials().await.unwrap().expiry(), None);
}

#[tokio::test]
async fn without_good_keys_a_failure_is_told_again_instead_of_asking_at_once() {
    let source = keeper([keys("one", 3600), None]);
    assert_eq!(given(&source).await.unwrap(), "one");
    source.refuse();
    for _ in 0..3 {
        let why = given(&source).await.unwrap_err();
        assert!(why.contains("the place is closed") && !why.contains("hush"), "{why}");
    }
}

#[tokio::test]
async fn what_only_a_person_can_mend_is_told_apart_from_what_time_may() {
    let source = keeper([None]);
    assert!(matches!(source.provide_credentials().await, Err(CredentialsError::ProviderError(_))));
    #[derive(Debug)]
    struct Empty;
    impl ProvideCredentials for Empty {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            future::ProvideCredentials::ready(Err(CredentialsError::not_loaded("no place has any")))
        }
    }
    let source = Keys::of_provider(Empty, Arc::new(|| BUILT));
    assert!(matches!(source.provide_credentials().await, Err(CredentialsError::InvalidConfiguration(_))));
}

#[test]
fn only_a_word_about_our_keys_has_others_fetched() {
    let reply = |operation, status, code: Option<&str>| {
        let got = Got::Reply { status, code: code.map(Code::parse) };
        is_refusal(&Answer { operation, got, detail: String::new() })
    };
    assert!(reply(Operation::PutNew, 400, Some("ExpiredToken")));
    assert!(reply(Operation::PutNew, 400, Some("InvalidToken")));
    assert!(reply(Operation::Get, 403, Some("InvalidAccessKeyId")));
    assert!(reply(Operation::Head, 400, None));
    assert!(!reply(Operation::PutNew, 400, None), "a word of somebody in between");
    assert!(!reply(Operation::Head, 403, None), "a policy without s3:ListBucket");
    assert!(!reply(Operation::PutNew, 403, Some("AccessDenied")));
    assert!(!reply(Operation::PutNew, 403, Some("RequestTimeTooSkewed")));
}
