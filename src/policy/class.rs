//! How much a request matters, where not all of them can be served.

/// In the order in which they are given up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Class {
    Sheddable,
    #[default]
    Default,
    Critical,
}

impl Class {
    pub const ALL: [Self; 3] = [Self::Sheddable, Self::Default, Self::Critical];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Sheddable => "sheddable",
            Self::Default => "default",
            Self::Critical => "critical",
        }
    }

    /// What is no class, or none at all, is `default`.
    pub fn of(text: Option<&str>) -> Self {
        let text = text.unwrap_or_default();
        Self::ALL.into_iter().find(|class| class.name().eq_ignore_ascii_case(text)).unwrap_or_default()
    }

    /// The part of a limit that is for this class and those that matter less, in percent.
    pub const fn share(self) -> u64 {
        match self {
            Self::Sheddable => 75,
            Self::Default => 90,
            Self::Critical => 100,
        }
    }

    /// Its part of a limit; one at least.
    pub fn part(self, limit: u32) -> u32 {
        let part = (u64::from(limit) * self.share()).div_ceil(100);
        u32::try_from(part).unwrap_or(limit).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_by_name_and_part() {
        let names = [Some("critical"), Some("Sheddable"), Some("vital"), Some(""), None];
        let classes = [Class::Critical, Class::Sheddable, Class::Default, Class::Default, Class::Default];
        assert_eq!(names.map(Class::of), classes);
        assert_eq!(Class::ALL.map(|class| class.part(100)), [75, 90, 100]);
        assert_eq!(Class::ALL.map(|class| class.part(1)), [1, 1, 1]);
    }
}
