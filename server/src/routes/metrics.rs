//! The same figures for Prometheus (OpenMetrics 1.0).

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::{Context, Refusal, Stats};
use crate::Vm;

const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub fn routes() -> Router<Context> {
    Router::new().route("/metrics", get(metrics))
}

/// What the machine uses, for Prometheus.
#[utoipa::path(get, path = "/metrics", responses((status = 200, content_type = "application/openmetrics-text", body = String)))]
pub async fn metrics(State(context): State<Context>) -> Result<impl IntoResponse, Refusal> {
    let mut text = String::new();
    encode(&mut text, &registry(&context.vm)).map_err(|e| {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("{e}: this is a bug, report it"))
    })?;
    Ok(([(header::CONTENT_TYPE, TYPE)], text))
}

fn registry(vm: &Vm) -> Registry {
    let (stats, status) = (Stats::of(vm), vm.status());
    let mut labels = vec![("id".into(), status.id.into())];
    labels.extend(status.name.map(|name| ("name".into(), name.into())));
    let mut registry = Registry::with_prefix_and_labels("guesthouse", labels.into_iter());
    let seconds = stats.cpu_time as f64 / 1000.0;
    registry.register_with_unit("cpu", "CPU time of the process", Unit::Seconds, ConstCounter::new(seconds));
    registry.register("exits", "Returns of vCPUs to the machine", ConstCounter::new(stats.exits));
    registry.register("restarts", "Starts after a failure", ConstCounter::new(u64::from(status.restarts)));
    for (name, help, value) in [
        ("memory", "Guest RAM", stats.memory),
        ("resident", "Host memory of the process", stats.resident),
        ("resident_shared", "Guest RAM that the guest has touched", stats.resident_shared),
        ("resident_private", "Host memory of the process beside guest RAM", stats.resident_private),
    ] {
        registry.register_with_unit(name, help, Unit::Bytes, ConstGauge::new(value as i64));
    }
    registry
}
