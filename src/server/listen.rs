//! Connections: how many, how long they may take to ask, and how they end.
use crate::{Phase, Shared, access, wire};
use axum::{Router, middleware};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use ram_engine::Error;
use std::{
    net::TcpListener,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Semaphore,
    time::{Instant, sleep},
};

/// Connections at once.
const CONNECTIONS: usize = 256;
/// Headers of a request.
const HEADERS: usize = 100;
/// How long a head may take, and a connection do nothing.
const HEAD_TIME: Duration = Duration::from_secs(60);
/// How long running requests have when the process is asked to end.
const GRACE: Duration = Duration::from_secs(10);

/// Starts the thread that all connections are on.
pub fn start(shared: Arc<Shared>, listeners: Vec<TcpListener>) -> Result<JoinHandle<()>, Error> {
    let failed = |source| Error::Io { path: "the network".into(), source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(4).build().map_err(failed)?;
    let guard = runtime.enter();
    let listeners = listeners.into_iter().map(tokio::net::TcpListener::from_std).collect::<Result<Vec<_>, _>>().map_err(failed)?;
    let signals = [(SignalKind::interrupt(), 130), (SignalKind::terminate(), 143)];
    let signals = signals.map(|(kind, status)| signal(kind).map(|signal| (signal, status)));
    drop(guard);
    let [interrupt, terminate] = signals;
    let (mut interrupt, mut terminate) = (interrupt.map_err(failed)?, terminate.map_err(failed)?);
    let run = move || {
        runtime.block_on(async {
            let router = wire::routes(shared.clone()).layer(middleware::from_fn_with_state(shared.clone(), access::check));
            let places = Arc::new(Semaphore::new(CONNECTIONS));
            for listener in listeners {
                tokio::spawn(accept(listener, router.clone(), places.clone()));
            }
            let mut asked = async || {
                tokio::select! {
                    _ = interrupt.0.recv() => interrupt.1,
                    _ = terminate.0.recv() => terminate.1,
                }
            };
            let status = asked().await;
            tokio::select! {
                () = drain(&shared, status) => {}
                // Whoever asks twice does not want to wait.
                status = asked() => std::process::exit(status),
            }
        });
    };
    thread::Builder::new().name("http".into()).spawn(run).map_err(failed)
}

/// Lets running requests end, then ends them.
async fn drain(shared: &Shared, status: i32) {
    let Phase::Ready(ready) = shared.phase() else {
        // Nothing is served yet: as any program that is asked to end.
        std::process::exit(status);
    };
    shared.set_phase(Phase::Draining(ready.clone()));
    let end = Instant::now() + GRACE;
    let busy = || {
        let status = ready.served.engine.status();
        status.running + status.waiting > 0
    };
    while busy() && Instant::now() < end {
        sleep(Duration::from_millis(20)).await;
    }
    shared.over.send_replace(true);
    // What they are told has to reach them.
    sleep(Duration::from_millis(200)).await;
}

async fn accept(listener: tokio::net::TcpListener, router: Router, places: Arc<Semaphore>) {
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            // No descriptors are left, or the other side has gone already.
            Err(_) => {
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(access::HEAD).max_headers(HEADERS);
            // How it ends concerns the other side alone.
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
            drop(place);
        });
    }
}
