-- The membership that a member event sets, for events that were stored in bulk as parts of a state: so that such a state
-- is read without the events' JSON. NULL: it is only in the JSON. The release before neither writes nor reads it.
ALTER TABLE events ADD COLUMN membership text;
