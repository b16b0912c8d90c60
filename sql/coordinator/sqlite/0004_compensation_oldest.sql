-- The oldest pending row of each service is the first of its part of this index: nobody looks through a million.
CREATE INDEX compensation_log_oldest ON compensation_log (service, id) WHERE status = 0;
