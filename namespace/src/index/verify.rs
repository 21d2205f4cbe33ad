//! Comparing the index with the tree.

use std::ops::ControlFlow;

use crate::counters::Count;
use crate::error::{Error, Result};
use crate::listing::{ListQuery, ObjectRow, Row};
use crate::walk::{Item, walk};
use crate::{Namespace, Scope, place};

/// Rows compared at once.
const PAGE: usize = 10_000;

/// Where index and tree differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// The container is not proven: its listings come from the tree.
    Unproven,
    /// An object.
    Object {
        /// Its name.
        name: String,
        /// As the tree has it.
        tree: Option<Box<ObjectRow>>,
        /// As the index has it.
        index: Option<Box<ObjectRow>>,
    },
    /// The sums.
    Count {
        /// Of the tree.
        tree: Count,
        /// Of the index.
        index: Count,
    },
    /// A file without a name; no difference, but not served.
    Unserved {
        /// Its path beneath the container.
        path: String,
        /// Why.
        reason: &'static str,
    },
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unproven => write!(f, "not proven: listed from the tree"),
            Self::Object { name, tree: Some(_), index: None } => {
                write!(f, "{name:?} is missing in the index")
            }
            Self::Object { name, tree: None, .. } => write!(f, "{name:?} is in the index alone"),
            Self::Object { name, tree: Some(tree), index: Some(index) } => {
                write!(f, "{name:?} is {tree:?}, in the index {index:?}")
            }
            Self::Count { tree, index } => write!(f, "holds {tree:?}, in the index {index:?}"),
            Self::Unserved { path, reason } => write!(f, "{path:?} is not served: {reason}"),
        }
    }
}

impl Namespace {
    /// Compares a container's rows with the tree, which should rest meanwhile. Each difference is told.
    pub fn verify(
        &self,
        account: &str,
        container: &str,
        tell: &mut dyn FnMut(Difference) -> ControlFlow<()>,
    ) -> Result<()> {
        let scope = Scope::of_container(self, account, container)?;
        walk(&scope, &mut |spot, item| match item {
            Item::Unserved(reason) => {
                Ok(tell(Difference::Unserved { path: place::shown(spot.path), reason }))
            }
            _ => Ok(ControlFlow::Continue(())),
        })?;
        if self.count_indexed(account, container)?.is_none() {
            let _ = tell(Difference::Unproven);
            return Ok(());
        }
        let mut tree = Pages::new(self, account, container, false);
        let mut index = Pages::new(self, account, container, true);
        let (mut left, mut right) = (tree.next()?, index.next()?);
        let (mut there, mut rows) = (Count::default(), Count::default());
        loop {
            let order = match (&left, &right) {
                (None, None) => break,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(left), Some(right)) => left.name.cmp(&right.name),
            };
            let of_tree = if order.is_le() { left.take() } else { None };
            let of_index = if order.is_ge() { right.take() } else { None };
            for (count, row) in [(&mut there, &of_tree), (&mut rows, &of_index)] {
                count.objects += u64::from(row.is_some());
                count.bytes += row.as_ref().map_or(0, |row| row.size);
            }
            if of_tree != of_index {
                let name = of_tree.as_ref().or(of_index.as_ref()).map(|row| row.name.clone());
                let difference = Difference::Object {
                    name: name.unwrap_or_default(),
                    tree: of_tree.map(Box::new),
                    index: of_index.map(Box::new),
                };
                if tell(difference).is_break() {
                    return Ok(());
                }
            }
            if order.is_le() {
                left = tree.next()?;
            }
            if order.is_ge() {
                right = index.next()?;
            }
        }
        let counted = self.count_indexed(account, container)?.unwrap_or_default();
        if counted != there {
            let _ = tell(Difference::Count { tree: there, index: counted });
        }
        Ok(())
    }
}

/// All rows of a container, page by page.
struct Pages<'n> {
    namespace: &'n Namespace,
    account: &'n str,
    container: &'n str,
    indexed: bool,
    page: std::vec::IntoIter<Row>,
    marker: Option<String>,
}

impl<'n> Pages<'n> {
    fn new(namespace: &'n Namespace, account: &'n str, container: &'n str, indexed: bool) -> Self {
        let page = Vec::new().into_iter();
        Self { namespace, account, container, indexed, page, marker: Some(String::new()) }
    }

    fn next(&mut self) -> Result<Option<ObjectRow>> {
        loop {
            match self.page.next() {
                Some(Row::Object(row)) => return Ok(Some(row)),
                Some(Row::Subdir(_)) => continue,
                None => {}
            }
            let Some(marker) = self.marker.take() else { return Ok(None) };
            let query = ListQuery { marker, limit: PAGE, ..ListQuery::default() };
            let rows = if self.indexed {
                let rows = self.namespace.list_indexed(self.account, self.container, &query)?;
                rows.ok_or(Error::Contended { what: "verifying a container" })?
            } else {
                self.namespace.list_tree(self.account, self.container, &query)?
            };
            if let Some(Row::Object(last)) = rows.last().filter(|_| rows.len() >= PAGE) {
                self.marker = Some(last.name.clone());
            }
            self.page = rows.into_iter();
        }
    }
}
