-- Every event that is written is noted as not sent yet, whoever writes it: nobody can forget to.
-- One call for all rows of a statement. Nobody is notified here: a transaction that notifies holds a lock of the whole
-- database while its commit is flushed, and placing orders would wait in line (docs/explanation/outbox.md).
CREATE FUNCTION note_events_v1() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  INSERT INTO outbox_pending (event_id, shard, aggregate, aggregate_id, seq)
  SELECT event_id, aggregate_id & 15, aggregate, aggregate_id, seq FROM new_rows;
  RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION note_events_v1 FROM PUBLIC;
CREATE TRIGGER note_events AFTER INSERT ON outbox_events REFERENCING NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION note_events_v1();

-- An event never changes, not even when it is sent.
REVOKE UPDATE ON outbox_events FROM counterfoil_app;
GRANT INSERT ON outbox_pending TO counterfoil_placement;

-- Rows come and go: the tables stay small when they are swept often.
ALTER TABLE outbox_pending SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
  autovacuum_vacuum_cost_delay = 0);
ALTER TABLE event_deliveries SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
  autovacuum_vacuum_cost_delay = 0);

