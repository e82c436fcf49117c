//! Metrics in the `OpenMetrics` text format, read at the moment they are asked for.
//!
//! [`family`] says which there are, [`sources`] where their values come from. Nothing here walks the connection
//! table or waits for the election: both publish their numbers, and what the data plane counts is read from maps
//! whose size the configuration bounds.

#[cfg(test)]
mod deployed;
pub mod family;
mod sources;
#[cfg(test)]
mod tests;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use self::family::{Family, Form};
pub use self::sources::{Listener, Sources};

/// Media type of the text: `OpenMetrics` 1.0.
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// What all names begin with.
pub const PREFIX: &str = "ha_agent";

/// A value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// Whole.
    Count(u64),
    /// Not whole.
    Number(f64),
}

/// One line of the text.
#[derive(Clone, Debug, PartialEq)]
struct Sample {
    family: Family,
    /// In the order of [`Family::labels`].
    labels: Vec<String>,
    value: Value,
}

/// All samples of one moment.
#[derive(Debug, Default)]
pub struct Samples(Vec<Sample>);

impl Samples {
    fn count(&mut self, family: Family, labels: &[&str], value: u64) {
        self.push(family, labels, Value::Count(value));
    }

    fn number(&mut self, family: Family, labels: &[&str], value: f64) {
        self.push(family, labels, Value::Number(value));
    }

    fn flag(&mut self, family: Family, labels: &[&str], value: bool) {
        self.count(family, labels, value.into());
    }

    fn push(&mut self, family: Family, labels: &[&str], value: Value) {
        debug_assert_eq!(family.labels().len(), labels.len(), "{family:?}");
        self.0.push(Sample {
            family,
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
            value,
        });
    }

    /// As text.
    pub fn encode(mut self) -> Result<String, std::fmt::Error> {
        // The lines of a family stand together.
        self.0.sort_by_key(|sample| sample.family);
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

impl Collector for Samples {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for samples in self.0.chunk_by(|one, next| one.family == next.family) {
            let Some(first) = samples.first() else {
                continue;
            };
            let family = first.family;
            let form = match family.form() {
                Form::Counter => MetricType::Counter,
                Form::Gauge => MetricType::Gauge,
            };
            let mut metric = encoder.encode_descriptor(family.stem(), family.help(), None, form)?;
            for sample in samples {
                let names = family.labels().iter().copied();
                let labels: Vec<(&str, &str)> = names
                    .zip(sample.labels.iter().map(String::as_str))
                    .collect();
                if labels.is_empty() {
                    line(&mut metric, sample)?;
                } else {
                    line(&mut metric.encode_family(&labels)?, sample)?;
                }
            }
        }
        Ok(())
    }
}

fn line(to: &mut MetricEncoder<'_>, sample: &Sample) -> Result<(), std::fmt::Error> {
    match (sample.family.form(), sample.value) {
        (Form::Counter, Value::Count(value)) => {
            to.encode_counter::<NoLabelSet, u64, f64>(&value, None)
        }
        (Form::Counter, Value::Number(value)) => {
            to.encode_counter::<NoLabelSet, f64, f64>(&value, None)
        }
        (Form::Gauge, Value::Count(value)) => to.encode_gauge(&value),
        (Form::Gauge, Value::Number(value)) => to.encode_gauge(&value),
    }
}
