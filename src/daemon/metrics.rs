//! `/metrics`: what the daemon knows, for Prometheus.
//!
//! A scrape reads the worker's counters and the control loop's state as they are at that moment.
//! The worker notices nothing of it.

mod families;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use weft_ctrl::status::TableDelays;
use weft_forward::counters::HistogramSnapshot;

pub(super) use families::{Moving, Scrape};

use super::state::State;

/// The format of [`Metrics::text`]. Prometheus reads it since 2.5, whatever it asked for.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything that can be scraped.
#[derive(Debug)]
pub(super) struct Metrics(Registry);

impl Metrics {
    /// The metrics of a daemon.
    pub(super) fn new(state: Arc<State>) -> Self {
        let mut registry = Registry::with_prefix("weft");
        registry.register_collector(Box::new(Scraper(state)));
        Self(registry)
    }

    /// All of them as they are now.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        text::encode(&mut text, &self.0).expect("a String takes everything");
        text
    }
}

#[derive(Debug)]
struct Scraper(Arc<State>);

impl Collector for Scraper {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in families::families(&self.0.scrape()) {
            family.encode(&mut encoder)?;
        }
        Ok(())
    }
}

/// Metrics of one name, each with its labels.
#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    samples: Vec<(Labels, Value)>,
}

type Labels = Vec<(&'static str, String)>;

/// The value of one metric.
#[derive(Clone, Copy, Debug)]
enum Value {
    Counter(u64),
    Seconds(f64),
    Gauge(u64),
    /// A gauge that is no whole number.
    Part(f64),
    Histogram(HistogramSnapshot),
    Delays(TableDelays),
    /// Always 1; the labels say it.
    Info,
}

impl Value {
    fn kind(self) -> MetricType {
        match self {
            Self::Counter(_) | Self::Seconds(_) => MetricType::Counter,
            Self::Gauge(_) | Self::Part(_) => MetricType::Gauge,
            Self::Histogram(_) | Self::Delays(_) => MetricType::Histogram,
            Self::Info => MetricType::Info,
        }
    }

    fn encode(self, encoder: &mut MetricEncoder<'_>, labels: &Labels) -> fmt::Result {
        match self {
            Self::Info => encoder.encode_info(labels),
            _ if labels.is_empty() => self.encode_number(encoder),
            _ => self.encode_number(&mut encoder.encode_family(labels)?),
        }
    }

    fn encode_number(self, encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        match self {
            Self::Counter(value) => encoder.encode_counter::<NoLabelSet, _, f64>(&value, None),
            Self::Seconds(value) => encoder.encode_counter::<NoLabelSet, _, f64>(&value, None),
            Self::Gauge(value) => encoder.encode_gauge(&value),
            Self::Part(value) => encoder.encode_gauge(&value),
            Self::Histogram(histogram) => {
                let bound = |bound: Option<u64>| bound.map_or(f64::INFINITY, |bound| bound as f64);
                let buckets: Vec<(f64, u64)> =
                    histogram.buckets().map(|(last, count)| (bound(last), count)).collect();
                let (sum, count) = (histogram.sum() as f64, histogram.count());
                encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
            }
            Self::Delays(delays) => {
                let bound =
                    |end: Option<Duration>| end.map_or(f64::INFINITY, |end| end.as_secs_f64());
                let buckets: Vec<(f64, u64)> =
                    delays.classes().map(|(end, count)| (bound(end), count)).collect();
                let sum = delays.total.as_secs_f64();
                encoder.encode_histogram::<NoLabelSet>(sum, delays.tables, &buckets, None)
            }
            Self::Info => Ok(()),
        }
    }
}

impl Family {
    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some((_, first)) = self.samples.first() else { return Ok(()) };
        let mut encoder =
            encoder.encode_descriptor(self.name, self.help, self.unit.as_ref(), first.kind())?;
        for (labels, value) in &self.samples {
            value.encode(&mut encoder, labels)?;
        }
        Ok(())
    }
}
