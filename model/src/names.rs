//! Texts that come again and again, kept once: the names of nodes, namespaces and ports.

use std::collections::HashSet;
use std::sync::Arc;

/// How many texts there are at least before those are looked for that nobody has any more.
const SMALL: usize = 1024;

/// Texts that are kept once.
#[derive(Debug, Default)]
pub struct Names {
    texts: HashSet<Arc<str>>,
    /// How many there may be until it is worth looking.
    enough: usize,
}

impl Names {
    /// The text `text`, which all who ask for it share.
    pub fn share(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        if self.texts.len() >= self.enough {
            self.texts.retain(|known| Arc::strong_count(known) > 1);
            self.enough = SMALL.max(2 * self.texts.len());
        }
        let new: Arc<str> = text.into();
        self.texts.insert(new.clone());
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_one_and_those_that_nobody_has_go() {
        let mut names = Names::default();
        let kept = names.share("kept");
        assert!(Arc::ptr_eq(&kept, &names.share("kept")));
        for number in 0..10 * SMALL {
            names.share(&number.to_string());
        }
        assert!(names.texts.len() <= SMALL);
        assert!(Arc::ptr_eq(&kept, &names.share("kept")));
    }
}
