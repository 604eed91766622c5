//! The same figures for Prometheus (OpenMetrics 1.0).

use std::sync::atomic::AtomicU64;

use ::machine::{Counters, FrameStats, IoStats};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use tokio::task::spawn_blocking;

use super::{Context, Refusal, Stats};
use crate::Vm;

const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub fn routes() -> Router<Context> {
    Router::new().route("/metrics", get(metrics))
}

/// What the machine uses and counts, for Prometheus.
#[utoipa::path(get, path = "/metrics", responses((status = 200, content_type = "application/openmetrics-text", body = String)))]
pub async fn metrics(State(context): State<Context>) -> Result<impl IntoResponse, Refusal> {
    let bug = |e: &dyn std::fmt::Display| {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("{e}: this is a bug, report it"))
    };
    // vCPUs are waited for.
    let machine = context.vm.machine();
    let counters = spawn_blocking(move || machine.map(|machine| machine.counters()));
    let counters = counters.await.map_err(|e| bug(&e))?.unwrap_or_default();
    let mut text = String::new();
    encode(&mut text, &registry(&context.vm, &counters)).map_err(|e| bug(&e))?;
    Ok(([(header::CONTENT_TYPE, TYPE)], text))
}

type Labels = Vec<(&'static str, String)>;

fn registry(vm: &Vm, counters: &Counters) -> Registry {
    let (stats, status) = (Stats::of(vm), vm.status());
    let mut labels = vec![("id".into(), status.id.into())];
    labels.extend(status.name.map(|name| ("name".into(), name.into())));
    let mut registry = Registry::with_prefix_and_labels("guesthouse", labels.into_iter());
    let seconds = stats.cpu_time as f64 / 1000.0;
    registry.register_with_unit("cpu", "CPU time of the process", Unit::Seconds, ConstCounter::new(seconds));
    registry.register("restarts", "Starts after a failure", ConstCounter::new(u64::from(status.restarts)));
    for (name, help, value) in [
        ("memory", "Guest RAM", stats.memory),
        ("resident", "Host memory of the process", stats.resident),
        ("guest_resident", "Guest RAM that is in host memory", stats.guest_resident),
    ] {
        registry.register_with_unit(name, help, Unit::Bytes, ConstGauge::new(value as i64));
    }
    let by = |key: &'static str, counters: &[(&'static str, u64)]| {
        counters.iter().map(|(name, value)| (vec![(key, (*name).to_owned())], *value)).collect::<Vec<_>>()
    };
    registry.register(
        "exits",
        "Why guest code was left or reached a device",
        family(by("reason", &counters.exits)),
    );
    registry.register("engine", "What the engine counts", family(by("event", &counters.engine)));
    disks(&mut registry, counters);
    nets(&mut registry, counters);
    registry
}

fn disks(registry: &mut Registry, counters: &Counters) {
    let each = |value: fn(&IoStats) -> u64| {
        let kinds = counters.disks.iter().enumerate().flat_map(|(index, disk)| {
            [("read", disk.reads), ("write", disk.writes), ("other", disk.others)].map(|(kind, stats)| {
                (vec![("disk", index.to_string()), ("operation", kind.to_owned())], stats)
            })
        });
        kinds.map(|(labels, stats)| (labels, value(&stats))).collect::<Vec<_>>()
    };
    registry.register("disk_operations", "Operations that have ended", family(each(|io| io.count)));
    registry.register_with_unit(
        "disk",
        "What operations were about",
        Unit::Bytes,
        family(each(|io| io.bytes)),
    );
    let times = Family::<Labels, Counter<f64, AtomicU64>>::default();
    for (labels, nanoseconds) in each(|io| io.nanoseconds) {
        times.get_or_create(&labels).inc_by(nanoseconds as f64 / 1e9);
    }
    registry.register_with_unit("disk_latency", "Time that operations took together", Unit::Seconds, times);
    let errors = counters.disks.iter().enumerate();
    let errors = errors.map(|(index, disk)| (vec![("disk", index.to_string())], disk.errors));
    registry.register("disk_errors", "Operations that the host could not do", family(errors.collect()));
}

fn nets(registry: &mut Registry, counters: &Counters) {
    let each = |value: fn(&FrameStats) -> u64| {
        let ways = counters.nets.iter().enumerate().flat_map(|(index, net)| {
            [("received", net.received), ("sent", net.sent)]
                .map(|(way, stats)| (vec![("net", index.to_string()), ("direction", way.to_owned())], stats))
        });
        ways.map(|(labels, stats)| (labels, value(&stats))).collect::<Vec<_>>()
    };
    registry.register("net_frames", "Frames of a card", family(each(|stats| stats.frames)));
    registry.register_with_unit(
        "net",
        "Bytes of frames of a card",
        Unit::Bytes,
        family(each(|stats| stats.bytes)),
    );
}

fn family(values: Vec<(Labels, u64)>) -> Family<Labels, Counter> {
    let family = Family::<Labels, Counter>::default();
    for (labels, value) in values {
        family.get_or_create(&labels).inc_by(value);
    }
    family
}
