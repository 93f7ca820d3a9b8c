use std::time::Duration;

use tokio::time::timeout;

use super::*;

fn endpoint(address: &str, weight: u32) -> Endpoint {
    Endpoint { weight, ..Endpoint::bare(address.parse::<Address>().unwrap()) }
}

fn addresses(subscription: &Subscription) -> Vec<String> {
    subscription.endpoints.borrow().iter().map(|endpoint| endpoint.address.to_string()).collect()
}

#[tokio::test]
async fn fixed_lists_are_there_at_once_sorted_and_once() {
    let list = vec![endpoint("10.0.0.2:1", 1), endpoint("10.0.0.1:1", 5), endpoint("10.0.0.2:1", 9)];
    let subscription = subscribe(Spec::Fixed(list), Arc::from([]));
    assert_eq!(**subscription.endpoints.borrow(), [endpoint("10.0.0.1:1", 5), endpoint("10.0.0.2:1", 1)]);
    assert!(subscription.status.borrow().last_success.is_some());
}

#[tokio::test]
async fn an_address_is_not_looked_up() {
    let subscription = subscribe(Spec::Dns { name: "::1".to_owned(), port: 80 }, Arc::from([]));
    assert_eq!(addresses(&subscription), ["[::1]:80"]);
}

#[test]
fn the_same_list_is_no_news() {
    let (publisher, mut endpoints, status) = Publisher::new(Arc::from([]));
    publisher.publish(vec![endpoint("10.0.0.1:1", 1)]);
    assert!(endpoints.has_changed().unwrap());
    endpoints.mark_unchanged();
    publisher.publish(vec![endpoint("10.0.0.1:1", 1), endpoint("10.0.0.1:1", 1)]);
    assert!(!endpoints.has_changed().unwrap());
    publisher.fail("test", "broken".to_owned());
    publisher.fail("test", "broken".to_owned());
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
    let mut subscription = subscribe(Spec::File { path: path.clone(), default_port: Some(80) }, Arc::from([]));
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
    let mut subscription = subscribe(Spec::File { path, default_port: None }, Arc::from([]));
    let failed = subscription.status.wait_for(|status| status.failures == 1);
    timeout(Duration::from_secs(20), failed).await.unwrap().unwrap();
    assert!(subscription.endpoints.borrow().is_empty());
}
