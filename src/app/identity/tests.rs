use super::*;

#[tokio::test]
async fn files_that_hang_have_one_reader_and_stop_nobody() {
    let text = "apiVersion: outrigger/v1\nlisteners: [{ name: in, mode: proxy, address: \"127.0.0.1:0\" }]\n";
    let config = crate::config::parse("t.yaml", text, &|_| None).unwrap();
    let (config, live) = (Arc::new(config), Arc::new(Material::default()));
    let mut rotation = Rotation::new();
    // Stands for the thread that hangs.
    let (go, gone) = tokio::sync::oneshot::channel::<()>();
    let task = tokio::spawn(async move {
        let _ = gone.await;
        (Material::default(), Vec::new())
    });
    let first = task.id();
    let (since, late) = (Instant::now().checked_sub(READING).unwrap(), false);
    rotation.reading = Some(Reading { task, config: config.clone(), live: live.clone(), since, late });
    rotation.read(config.clone(), live.clone());
    assert!(tokio::time::timeout(Duration::from_millis(10), rotation.due()).await.is_err());
    // A reload does not wait for what is late already.
    let before = Instant::now();
    assert_eq!(rotation.read_now(config.clone(), live.clone()).await.unwrap_err(), SLOW);
    assert!(before.elapsed() < READING / 2);
    let reading = rotation.reading.as_ref().unwrap();
    assert!(reading.late && reading.task.id() == first);
    go.send(()).unwrap();
    let read = rotation.due().await.unwrap();
    assert!(Arc::ptr_eq(&read.config, &config) && read.found.is_ok());
    assert!(rotation.reading.is_none());
}
