//! Values, medians and ratios of each figure of each measure.

use crate::args::Args;
use crate::measures::{Figure, Measure};
use crate::rounds::{Results, measures};
use crate::statistics::{median, ratio, ratio_range};
use crate::system::Contender;
use serde::Serialize;

/// One figure of one measure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Comparison {
    /// Which load.
    pub(crate) measure: Measure,
    /// Which number.
    pub(crate) figure: Figure,
    /// Everybody who has a value.
    pub(crate) columns: Vec<Column>,
}

/// What one contender has reached.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Column {
    /// Who.
    pub(crate) contender: Contender,
    /// One for each round.
    pub(crate) values: Vec<f64>,
    /// Their median.
    pub(crate) median: f64,
    /// The median to etcd's median; `None` for etcd itself, and where etcd has none.
    pub(crate) ratio: Option<f64>,
    /// The smallest and the largest ratio within one round.
    pub(crate) ratio_of_rounds: Option<(f64, f64)>,
}

impl Comparison {
    /// The column of a contender.
    pub(crate) fn column(&self, contender: Contender) -> Option<&Column> {
        self.columns.iter().find(|column| column.contender == contender)
    }
}

/// Every figure for which there is a value.
pub(crate) fn compare(args: &Args, results: &Results) -> Vec<Comparison> {
    let figures = measures(args).into_iter().flat_map(|m| m.figures().iter().map(move |f| (m, *f)));
    let compared = figures.map(|(measure, figure)| {
        let values = |contender: Contender| -> Vec<f64> {
            let of = results.taken.iter().filter(|t| t.measure == measure && t.contender == contender);
            of.filter_map(|taken| figure.of(&taken.sample)).collect()
        };
        let etcd = values(Contender::Etcd);
        let columns = Contender::ALL.iter().filter_map(|&contender| column(contender, values(contender), &etcd));
        Comparison { measure, figure, columns: columns.collect() }
    });
    compared.filter(|c| !c.columns.is_empty()).collect()
}

fn column(contender: Contender, values: Vec<f64>, etcd: &[f64]) -> Option<Column> {
    let middle = median(&values)?;
    let yardstick = if contender == Contender::Etcd { &[] } else { etcd };
    Some(Column {
        contender,
        median: middle,
        ratio: median(yardstick).and_then(|base| ratio(middle, base)),
        ratio_of_rounds: ratio_range(&values, yardstick),
        values,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Taken;
    use crate::sample::tests::sample;
    use clap::Parser as _;

    #[test]
    fn medians_and_ratios_are_per_figure_and_measure() {
        let args = Args::parse_from(["meridian-peers", "--measures", "put-many,get-many"]);
        let taken = |round, measure, contender, throughput, p50| Taken {
            round,
            measure,
            contender,
            sample: sample(throughput, p50),
        };
        let (put, get) = (Measure::PutMany, Measure::GetMany);
        let taken = vec![
            taken(1, put, Contender::Etcd, 100.0, 4000.0),
            taken(1, put, Contender::Meridian, 300.0, 1000.0),
            taken(2, put, Contender::Meridian, 100.0, 3000.0),
            taken(2, put, Contender::Etcd, 50.0, 8000.0),
            taken(1, get, Contender::Meridian, 7.0, 1.0),
        ];
        let compared = compare(&args, &Results { taken, disk: Vec::new() });
        let of = |m, f, c| {
            let compared = compared.iter().find(|c| c.measure == m && c.figure == f).unwrap();
            compared.column(c).unwrap()
        };
        let etcd = of(put, Figure::Throughput, Contender::Etcd);
        assert_eq!((etcd.median, etcd.ratio), (75.0, None));
        let meridian = of(put, Figure::Throughput, Contender::Meridian);
        assert_eq!((meridian.median, meridian.ratio), (200.0, Some(200.0 / 75.0)));
        assert_eq!(meridian.ratio_of_rounds, Some((2.0, 3.0)));
        let latency = of(put, Figure::P50, Contender::Meridian);
        assert_eq!(latency.values, [1.0, 3.0], "milliseconds, in the order of the rounds");
        let alone = of(get, Figure::Throughput, Contender::Meridian);
        assert_eq!(alone.ratio, None, "etcd was not measured");
    }
}
