//! How links that share another link's wire speak with each other and with the rest of it.
//!
//! The words are those of ip-link(8), and of Docker's drivers of the same names.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$of:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum $name {
            $($(#[$of])* $variant,)+
        }

        impl $name {
            /// The mode of a word, if it is one.
            pub fn of_word(word: &str) -> Option<Self> {
                match word {
                    $($word => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$variant => $word,)+
                })
            }
        }
    };
}

words! {
    /// How a macvlan link speaks with the others of its parent.
    MacvlanMode {
        /// Directly, within the parent.
        #[default]
        Bridge = "bridge",
        /// Not at all, whatever the switch does.
        Private = "private",
        /// Through the switch that the parent is plugged into, if that sends frames back where they came from.
        Vepa = "vepa",
        /// There are no others: it has the parent for itself.
        Passthru = "passthru",
    }
}

words! {
    /// What an ipvlan link does with frames.
    IpvlanMode {
        /// It answers ARP and neighbour discovery, and speaks with the wire as other hosts do.
        #[default]
        L2 = "l2",
        /// It routes: it neither asks nor answers who is where, and hears no broadcasts.
        L3 = "l3",
        /// The same, with the host's connection tracking.
        L3s = "l3s",
    }
}

words! {
    /// How an ipvlan link speaks with the others of its parent.
    IpvlanFlag {
        /// Directly, within the parent.
        #[default]
        Bridge = "bridge",
        /// Not at all.
        Private = "private",
        /// Through the switch that the parent is plugged into, if that sends frames back where they came from.
        Vepa = "vepa",
    }
}
