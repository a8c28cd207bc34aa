//! The tables of images: what was measured, and who waits for an answer. `enforcer_common::image` says what they are for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::maps::{HashMap, MapData, MapError};
use enforcer_common::image::{ImageKey, Ticket, answer};

use super::{
    maps::{MapsError, access, ignore_absent, open},
    pins::Pins,
};

/// A handle, to be cloned for whoever measures beside the loop.
#[derive(Clone)]
pub(crate) struct ImageMaps(Arc<Mutex<Maps>>);

struct Maps {
    images: HashMap<MapData, ImageKey, u64>,
    tickets: HashMap<MapData, u64, Ticket>,
}

impl ImageMaps {
    pub(crate) fn open(pins: &Pins) -> Result<Self, MapsError> {
        let maps = Maps { images: open(pins, "IMAGES")?, tickets: open(pins, "TICKETS")? };
        Ok(Self(Arc::new(Mutex::new(maps))))
    }

    /// Says what an image is, for every exec of it to come.
    pub(crate) fn remember(&self, key: ImageKey, said: u64) -> Result<(), MapsError> {
        self.turn().images.insert(key, answer(key.image.inode, said), 0).map_err(access("write", "IMAGES"))
    }

    /// Answers whoever has a ticket. Nothing happens if it is gone.
    pub(crate) fn answer(&self, number: u64, said: u64) -> Result<(), MapsError> {
        const BPF_EXIST: u64 = 2;
        let mut maps = self.turn();
        let Some(ticket) = found(maps.tickets.get(&number, 0))? else { return Ok(()) };
        let answered = Ticket { answer: answer(number, said), ..ticket };
        let answered = maps.tickets.insert(number, answered, BPF_EXIST);
        ignore_absent(answered).map_err(access("write", "TICKETS"))
    }

    /// Every ticket. They come meanwhile: one that is there throughout is in it.
    pub(crate) fn tickets(&self) -> Result<Vec<(u64, Ticket)>, MapsError> {
        self.turn().tickets.iter().collect::<Result<_, _>>().map_err(access("read", "TICKETS"))
    }

    /// Takes away a ticket that no process has any more.
    pub(crate) fn forget(&self, number: u64) -> Result<(), MapsError> {
        ignore_absent(self.turn().tickets.remove(&number)).map_err(access("write", "TICKETS"))
    }

    fn turn(&self) -> MutexGuard<'_, Maps> {
        // Each access is one operation: nobody leaves it half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn found(ticket: Result<Ticket, MapError>) -> Result<Option<Ticket>, MapsError> {
    match ticket {
        Ok(ticket) => Ok(Some(ticket)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(access("read", "TICKETS")(error)),
    }
}
