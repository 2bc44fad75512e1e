//! Verbs whose options are described only when they are asked for: to describe all of them costs more than most verbs do.

/// An enum of verbs with their arguments, as `#[derive(Subcommand)]` reads it, and the word of each. What comes after `=>`
/// is done to the verb's command at once.
macro_rules! verbs {
    (
        $(#[$outer:meta])*
        pub enum $name:ident {
            $(#[doc = $about:literal] $verb:ident($args:ty) = $word:literal $(=> $change:expr)?,)+
        }
    ) => {
        $(#[$outer])*
        #[derive(Debug)]
        pub enum $name {
            $(#[doc = $about] $verb($args),)+
        }

        impl clap::Subcommand for $name {
            fn augment_subcommands(command: clap::Command) -> clap::Command {
                let command = command.subcommand_required(true).arg_required_else_help(true);
                $(
                    let verb = clap::Command::new($word).about($about.trim_start());
                    $(let verb = $crate::cli::lazy::change(verb, $change);)?
                    let command = command.subcommand(verb);
                )+
                Self::deferred::<$crate::cli::lazy::Plain>(command)
            }

            fn augment_subcommands_for_update(command: clap::Command) -> clap::Command {
                Self::augment_subcommands(command)
            }

            fn has_subcommand(name: &str) -> bool {
                matches!(name, $($word)|+)
            }
        }

        impl $name {
            /// The same verbs, whose options are changed when they are described.
            pub fn deferred<C: $crate::cli::lazy::Change>(command: clap::Command) -> clap::Command {
                command.mut_subcommands(|verb| match verb.get_name() {
                    $($word => verb.defer(|verb| {
                        C::change(<$args as clap::Args>::augment_args(verb).about($about.trim_start()))
                    }),)+
                    _ => verb,
                })
            }
        }

        impl clap::FromArgMatches for $name {
            fn from_arg_matches(matches: &clap::ArgMatches) -> Result<Self, clap::Error> {
                Self::from_arg_matches_mut(&mut matches.clone())
            }

            fn from_arg_matches_mut(matches: &mut clap::ArgMatches) -> Result<Self, clap::Error> {
                match matches.remove_subcommand() {
                    $(Some((word, mut matches)) if word == $word => {
                        Ok(Self::$verb(<$args as clap::FromArgMatches>::from_arg_matches_mut(&mut matches)?))
                    })+
                    _ => Err(clap::Error::new(clap::error::ErrorKind::MissingSubcommand)),
                }
            }

            fn update_from_arg_matches(&mut self, matches: &clap::ArgMatches) -> Result<(), clap::Error> {
                *self = Self::from_arg_matches(matches)?;
                Ok(())
            }
        }
    };
}

pub(super) use verbs;

/// What is done to a verb's description.
pub trait Change {
    /// Does it.
    fn change(command: clap::Command) -> clap::Command;
}

/// Nothing.
pub struct Plain;

impl Change for Plain {
    fn change(command: clap::Command) -> clap::Command {
        command
    }
}

/// Gives a closure the type that it cannot find out itself.
pub(super) fn change(command: clap::Command, how: impl FnOnce(clap::Command) -> clap::Command) -> clap::Command {
    how(command)
}
