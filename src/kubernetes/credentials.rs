//! Credentials that are being made outlive the request that asked for them: the next one waits on for the same.
//!
//! A credential plugin of a kubeconfig may take longer than an attempt. kube runs it within the request that finds the
//! token old: with that request what the plugin says would be gone, and the next would start another. So a task asks
//! for the header, one at a time, and no second plugin runs beside the first, however long that takes.

use std::sync::{Arc, Mutex, PoisonError};

use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper::{Request, Response};
use kube::client::middleware::AuthLayer;
use tokio::sync::watch;
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt};

use super::connection::{Body, BoxError, credentials_fault};

/// Why a request has no credentials yet.
pub const RUNS: &str = "the credential plugin of the kubeconfig is still running";

/// Held by whoever may run the plugin.
pub type Plugin = Arc<tokio::sync::Mutex<()>>;

/// What requests are authorized with.
pub struct Credentials {
    /// kube's layer over what answers with the header that it was given.
    layer: BoxCloneSyncService<Request<Body>, Response<Option<HeaderValue>>, BoxError>,
    asking: OneAtATime<Result<HeaderValue, String>>,
    plugin: Plugin,
    last: Mutex<Option<HeaderValue>>,
}

impl Credentials {
    pub fn new(layer: &AuthLayer, plugin: &Plugin) -> Self {
        let given = tower::service_fn(|request: Request<Body>| async move {
            Ok::<_, BoxError>(Response::new(request.headers().get(AUTHORIZATION).cloned()))
        });
        Credentials {
            layer: BoxCloneSyncService::new(layer.layer(given)),
            asking: OneAtATime::default(),
            plugin: Arc::clone(plugin),
            last: Mutex::default(),
        }
    }

    /// The header for a request, or why there is none. While the configuration is being read again, as a plugin may
    /// run for, it is the last one.
    pub async fn header(&self) -> Result<HeaderValue, String> {
        let (layer, plugin) = (self.layer.clone(), Arc::clone(&self.plugin));
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let ask = async move {
            let Ok(_alone) = plugin.try_lock() else { return last.ok_or_else(|| RUNS.to_owned()) };
            let given = layer.oneshot(Request::default()).await.map_err(|error| credentials_fault(&*error))?;
            given.into_body().ok_or_else(|| "they are none".to_owned())
        };
        let header = self.asking.result(|| ask).await.unwrap_or_else(|| Err("their reading broke off".into()))?;
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(header.clone());
        Ok(header)
    }
}

/// What a task does for all who wait for it, and also when nobody does any more.
pub struct OneAtATime<T>(Mutex<Option<watch::Receiver<Option<T>>>>);

impl<T> Default for OneAtATime<T> {
    fn default() -> Self {
        OneAtATime(Mutex::new(None))
    }
}

impl<T: Clone + Send + Sync + 'static> OneAtATime<T> {
    /// What the task under way comes to, or else a new one. None: it broke off.
    pub async fn result<F: Future<Output = T> + Send + 'static>(&self, begin: impl FnOnce() -> F) -> Option<T> {
        let mut done = {
            let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match &*newest {
                Some(done) if done.borrow().is_none() && done.has_changed().is_ok() => done.clone(),
                _ => {
                    let (tell, done) = watch::channel(None);
                    let task = begin();
                    tokio::spawn(async move { tell.send(Some(task.await)) });
                    newest.insert(done).clone()
                }
            }
        };
        done.wait_for(Option::is_some).await.ok()?.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_task_outlives_who_asked_for_it_and_runs_once_at_a_time() {
        let (task, begun) = (OneAtATime::default(), Arc::new(AtomicUsize::new(0)));
        let ask = || {
            task.result(|| {
                let number = begun.fetch_add(1, Ordering::Relaxed);
                async move {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    number
                }
            })
        };
        for _ in 0..3 {
            assert!(tokio::time::timeout(Duration::from_millis(5), ask()).await.is_err());
        }
        assert_eq!(tokio::join!(ask(), ask()), (Some(0), Some(0)));
        assert_eq!(ask().await, Some(1));
    }
}
