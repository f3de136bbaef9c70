-- The highest token that was ever seen, one row a job.
CREATE TABLE fence (name TEXT PRIMARY KEY, token INTEGER NOT NULL);

-- What the examples do: a row each time.
CREATE TABLE work (
  id INTEGER PRIMARY KEY,
  token INTEGER NOT NULL,
  pod TEXT NOT NULL,
  at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now'))
);
