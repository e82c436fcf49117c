//! A line of the last hour, as SVG: for the eye. What it says is beside it in words.

use std::fmt::Write as _;

use super::rates::POINTS;
use super::view::amount;

/// Size of the drawing, in its own units.
const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 96.0;

/// A line of values a second, one for each half minute, oldest first.
pub(super) fn line(what: &str, values: &[f64]) -> String {
    let top = values.iter().copied().fold(0.0, f64::max);
    let scale = if top > 0.0 { HEIGHT / top } else { 0.0 };
    let step = WIDTH / (POINTS - 1) as f64;
    let first = WIDTH - step * values.len().saturating_sub(1) as f64;
    let mut points = String::new();
    for (index, value) in values.iter().enumerate() {
        let (x, y) = (first + step * index as f64, HEIGHT - value * scale);
        // Writing to a string cannot fail.
        let _infallible = write!(points, "{x:.0},{y:.1} ");
    }
    let points = points.trim_end();
    let area = if values.is_empty() {
        String::new()
    } else {
        format!(
            "<polygon class=\"area\" points=\"{first:.0},{HEIGHT} {points} {WIDTH},{HEIGHT}\"/>\
             <polyline class=\"curve\" points=\"{points}\"/>"
        )
    };
    let most = amount(top);
    format!(
        "<svg class=\"chart\" viewBox=\"0 -4 {WIDTH} {:.0}\" preserveAspectRatio=\"none\" role=\"img\" \
         aria-label=\"{what} in the last hour: at most {most} a second\">\
         <line class=\"axis\" x1=\"0\" x2=\"{WIDTH}\" y1=\"{HEIGHT}\" y2=\"{HEIGHT}\"/>{area}</svg>",
        HEIGHT + 8.0
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_in_its_frame() {
        let values: Vec<f64> = (0..POINTS).map(|n| n as f64 * 1000.0).collect();
        let svg = line("connections", &values);
        assert!(svg.contains("points=\"0,96.0 "), "{svg}");
        assert!(svg.contains("480,0.0\"/>"), "{svg}");
        assert!(svg.contains("at most 119 k a second"), "{svg}");
        for nothing in [&[][..], &[0.0][..]] {
            let svg = line("packets", nothing);
            assert!(
                svg.contains("at most 0 a second") && !svg.contains("NaN"),
                "{svg}"
            );
        }
    }
}
