use std::time::Duration;

use tokio::time::timeout;

use super::*;

fn endpoint(address: &str, weight: u32) -> Endpoint {
    Endpoint { weight, ..Endpoint::bare(address.parse::<Address>().unwrap()) }
}

fn address(name: &str) -> Spec {
    let ttl = (Duration::from_secs(5), Duration::from_secs(60));
    let query = Query { name: name.to_owned(), kind: Kind::Address(80), servers: Vec::new(), ttl };
    Spec::Dns { query, guard: None }
}

fn addresses(subscription: &Subscription) -> Vec<String> {
    subscription.endpoints.borrow().iter().map(|endpoint| endpoint.address.to_string()).collect()
}

#[tokio::test]
async fn fixed_lists_are_there_at_once_sorted_and_once() {
    let list = vec![endpoint("10.0.0.2:1", 1), endpoint("10.0.0.1:1", 5), endpoint("10.0.0.2:1", 9)];
    let subscription = subscribe(Spec::Fixed(list), Arc::from([]));
    assert_eq!(**subscription.endpoints.borrow(), [endpoint("10.0.0.1:1", 5), endpoint("10.0.0.2:1", 1)]);
    assert!(subscription.status.borrow().success.is_some());
}

#[tokio::test]
async fn an_address_is_not_looked_up() {
    let subscription = subscribe(address("::1"), Arc::from([]));
    assert_eq!(addresses(&subscription), ["[::1]:80"]);
}

#[test]
fn the_same_list_is_no_news() {
    let (mut publisher, mut endpoints, status) = Publisher::new(&address("a"), Arc::from([]));
    publisher.publish(vec![endpoint("10.0.0.1:1", 1)]);
    assert!(endpoints.has_changed().unwrap());
    endpoints.mark_unchanged();
    publisher.publish(vec![endpoint("10.0.0.1:1", 1), endpoint("10.0.0.1:1", 1)]);
    assert!(!endpoints.has_changed().unwrap());
    publisher.fail("broken".to_owned());
    publisher.fail("broken".to_owned());
    assert_eq!((status.borrow().failures, status.borrow().last_error.as_deref()), (2, Some("broken")));
    assert!(!endpoints.has_changed().unwrap());
    publisher.publish(vec![endpoint("10.0.0.1:1", 2)]);
    assert_eq!((status.borrow().failures, status.borrow().last_error.as_deref()), (0, None));
    assert!(endpoints.has_changed().unwrap());
}

#[tokio::test]
async fn a_file_is_followed_and_a_bad_one_changes_nothing() {
    let directory = std::env::temp_dir().join(format!("outrigger-discovery-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("endpoints.yaml");
    std::fs::write(&path, "- 10.0.0.1\n").unwrap();
    let mut subscription =
        subscribe(Spec::File { path: path.clone(), default_port: Some(80), guard: None }, Arc::from([]));
    let soon = Duration::from_secs(20);
    let count = |count| move |list: &Arc<[Endpoint]>| list.len() == count;
    timeout(soon, subscription.endpoints.wait_for(count(1))).await.unwrap().unwrap();

    std::fs::write(&path, "- nonsense\n").unwrap();
    timeout(soon, subscription.status.wait_for(|status| status.last_error.is_some())).await.unwrap().unwrap();
    assert_eq!(addresses(&subscription), ["10.0.0.1:80"]);

    std::fs::write(&path, "- 10.0.0.1\n- { address: '10.0.0.2:81', labels: { version: v2 }, zone: a }\n").unwrap();
    timeout(soon, subscription.endpoints.wait_for(count(2))).await.unwrap().unwrap();
    assert_eq!(addresses(&subscription), ["10.0.0.1:80", "10.0.0.2:81"]);
    assert!(subscription.status.borrow().last_error.is_none());
    std::fs::remove_dir_all(directory).unwrap();
}

#[tokio::test]
async fn a_missing_file_shows_in_the_status() {
    let path = std::env::temp_dir().join("outrigger-no-such-file.yaml");
    let mut subscription = subscribe(Spec::File { path, default_port: None, guard: None }, Arc::from([]));
    let failed = subscription.status.wait_for(|status| status.failures == 1);
    timeout(Duration::from_secs(20), failed).await.unwrap().unwrap();
    assert!(subscription.endpoints.borrow().is_empty());
}

#[test]
fn a_set_that_shrinks_is_held_back_and_taken_when_it_is_confirmed() {
    let list = |count: u8| (0..count).map(|n| endpoint(&format!("10.0.0.{n}:1"), 1)).collect::<Vec<_>>();
    let hold = Duration::from_millis(50);
    let guarded = |shadow| {
        let Spec::Dns { query, .. } = address("a") else { unreachable!() };
        Spec::Dns { query, guard: Some(Guard { minimum: 20, hold, shadow }) }
    };
    // What another source has found says nothing of this one.
    let (mut publisher, endpoints, status) = Publisher::new(&guarded(false), list(30).into());
    let shown = || endpoints.borrow().len();
    assert_eq!((publisher.publish(list(10)), shown()), (None, 10));
    assert_eq!((publisher.publish(list(1)), shown()), (Some(hold / 3), 10));
    assert_eq!(status.borrow().held.map(|(held, count)| (held.answers, count)), Some((1, 1)));
    // It was a slip.
    assert_eq!((publisher.publish(list(9)), shown()), (None, 9));
    assert!(status.borrow().held.is_none());
    // It was not: the time has to pass, and others have to say the same.
    assert!(publisher.publish(Vec::new()).is_some());
    std::thread::sleep(hold);
    assert!(publisher.publish(Vec::new()).is_some(), "the second answer");
    assert_eq!((publisher.publish(Vec::new()), shown()), (None, 0));
    assert_eq!((status.borrow().held, status.borrow().holds), (None, [2, 0]));

    let (mut publisher, endpoints, status) = Publisher::new(&guarded(true), Arc::from([]));
    publisher.publish(list(10));
    assert_eq!((publisher.publish(list(1)), endpoints.borrow().len()), (None, 1));
    assert_eq!(status.borrow().holds, [0, 1]);
}
