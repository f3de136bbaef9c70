-- The highest token that was ever seen, one row a job.
CREATE TABLE fence (name text PRIMARY KEY, token bigint NOT NULL);

-- What the examples do: a row each time.
CREATE TABLE work (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  token bigint NOT NULL,
  pod text NOT NULL,
  at timestamptz NOT NULL DEFAULT clock_timestamp()
);
