//! Pictures: each run of each row is a point on a logarithmic axis, the median a bar.

use std::path::PathBuf;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::Run;
use super::document::{Document, Figure};
use crate::bench::{AGENT, Promise};

const WIDTH: u32 = 900;
const ROW: u32 = 24;
const NAMES: u32 = 380;
const AROUND: u32 = 70;
const OURS: RGBColor = RGBColor(0, 94, 162);
const RIVALS: RGBColor = RGBColor(181, 73, 0);
const INK: RGBColor = RGBColor(40, 40, 40);
const GRID: RGBColor = RGBColor(225, 225, 225);

/// A picture of some figures of a benchmark, which have a unit in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chart {
    bench: &'static str,
    name: &'static str,
    /// What stands above it.
    pub(super) title: &'static str,
    unit: &'static str,
    what: &'static [&'static str],
}

const CHARTS: &[Chart] = &[
    Chart {
        bench: "failover",
        name: "gap",
        title: "Longest silence that a client noticed",
        unit: "ms",
        what: &["gap", "ucarp's last packet to our first"],
    },
    Chart {
        bench: "replication",
        name: "delay",
        title: "From the end of a handshake to the entry in the standby's kernel",
        unit: "µs",
        what: &["delay p50", "delay p99"],
    },
    Chart {
        bench: "replication",
        name: "bytes",
        title: "What both nodes send for the whole life of a connection",
        unit: "B",
        what: &["bytes of a connection"],
    },
    Chart {
        bench: "replication",
        name: "processor",
        title: "Processor time for 10,000 connections",
        unit: "s",
        what: &["CPU of 10,000, active", "CPU of 10,000, standby"],
    },
    Chart {
        bench: "datapath",
        name: "packet",
        title: "What a packet costs, the program alone",
        unit: "ns",
        what: &["net"],
    },
    Chart {
        bench: "chaos",
        name: "gap",
        title: "Longest silence that a client noticed, by what was broken first",
        unit: "ms",
        what: &["gap"],
    },
];

/// The pictures of a benchmark.
pub(super) fn of(bench: &str) -> impl Iterator<Item = &'static Chart> {
    CHARTS.iter().filter(move |chart| chart.bench == bench)
}

impl Chart {
    /// Where that of a run is, from the root of the sources.
    pub(super) fn path(&self, run: &Run) -> PathBuf {
        PathBuf::from(format!("docs/benchmarks/{}-{}.svg", run.name, self.name))
    }

    /// Whether a figure is no rival's. Chaos has none: it says whose part was broken.
    fn is_ours(&self, figure: &Figure) -> bool {
        figure.who.starts_with(AGENT) || self.bench == "chaos"
    }

    /// As SVG; none if nothing of ours was measured.
    pub(super) fn draw(&self, document: &Document) -> Result<Option<String>> {
        let shown = |figure: &&Figure| {
            figure.unit == self.unit
                && self.what.contains(&figure.what.as_str())
                && figure.runs.iter().any(|run| *run > 0.0)
        };
        let figures: Vec<&Figure> = document.figures.iter().filter(shown).collect();
        let runs = || figures.iter().flat_map(|figure| &figure.runs).copied();
        let least = runs()
            .filter(|run| *run > 0.0)
            .fold(f64::INFINITY, f64::min);
        let most = runs().fold(0.0, f64::max);
        if !figures.iter().any(|figure| self.is_ours(figure)) {
            return Ok(None);
        }
        let mut text = String::new();
        self.plot(&figures, least / 1.5..most * 1.5, &mut text)
            // Its errors borrow from the string.
            .map_err(|error| anyhow!("{}: {error}", self.name))?;
        text.push('\n');
        Ok(Some(text))
    }

    fn plot(
        &self,
        figures: &[&Figure],
        range: std::ops::Range<f64>,
        text: &mut String,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let height = AROUND + ROW * figures.len() as u32;
        let floor = range.start;
        let root = SVGBackend::with_string(text, (WIDTH, height)).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .margin(10)
            .set_label_area_size(LabelAreaPosition::Left, NAMES)
            .set_label_area_size(LabelAreaPosition::Bottom, 45)
            .build_cartesian_2d(range.log_scale(), figures.len() as f64..0.0)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .x_desc(format!(
                "{} (logarithmic), one point a run, median as a bar, promise as a line",
                self.unit
            ))
            .label_style(("sans-serif", 12, &INK))
            .draw()?;
        for (index, figure) in figures.iter().enumerate() {
            let y = index as f64 + 0.5;
            let colour = if self.is_ours(figure) { OURS } else { RIVALS };
            self.name(&root, &chart, figure, y, colour)?;
            let dots = figure
                .runs
                .iter()
                .map(|run| Circle::new((run.max(floor), y), 3, colour.mix(0.5).filled()));
            chart.draw_series(dots)?;
            if let Promise::MedianAtMost(limit) | Promise::NeverMoreThan(limit) = figure.promise {
                let line = vec![(limit, y - 0.45), (limit, y + 0.45)];
                chart.draw_series([PathElement::new(line, INK.mix(0.6).stroke_width(1))])?;
            }
            if let Some(summary) = figure.summary() {
                let bar = vec![(summary.median, y - 0.3), (summary.median, y + 0.3)];
                chart.draw_series([PathElement::new(bar, colour.stroke_width(3))])?;
            }
        }
        root.present()?;
        Ok(())
    }

    fn name<'a>(
        &self,
        root: &DrawingArea<SVGBackend<'a>, Shift>,
        chart: &ChartContext<'_, SVGBackend<'a>, Cartesian2d<LogCoord<f64>, RangedCoordf64>>,
        figure: &Figure,
        y: f64,
        colour: RGBColor,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let mut label = format!("{}, {}", figure.case, figure.who);
        if self.what.len() > 1 {
            label = format!("{label}: {}", figure.what);
        }
        let (_, at) = chart.backend_coord(&(1.0, y));
        let style = TextStyle::from(("sans-serif", 13))
            .color(&colour)
            .pos(Pos::new(HPos::Right, VPos::Center));
        root.draw_text(&label, &style, (NAMES.cast_signed(), at))?;
        Ok(())
    }
}
