PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE studies (
	study_id INTEGER NOT NULL, 
	study_name VARCHAR(512) NOT NULL, 
	PRIMARY KEY (study_id)
);
INSERT INTO studies VALUES(1,'s');
CREATE TABLE version_info (
	version_info_id INTEGER NOT NULL, 
	schema_version INTEGER, 
	library_version VARCHAR(256), 
	PRIMARY KEY (version_info_id), 
	CHECK (version_info_id=1)
);
INSERT INTO version_info VALUES(1,12,'5.0.0');
CREATE TABLE study_directions (
	study_direction_id INTEGER NOT NULL, 
	direction VARCHAR(8) NOT NULL, 
	study_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	PRIMARY KEY (study_direction_id), 
	UNIQUE (study_id, objective), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO study_directions VALUES(1,'MAXIMIZE',1,0);
CREATE TABLE study_user_attributes (
	study_user_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_user_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO study_user_attributes VALUES(1,1,'id','"cda6ac2eb82e4000ad34b204f4131191"');
INSERT INTO study_user_attributes VALUES(2,1,'space','{"x": {"name": "FloatDistribution", "attributes": {"step": null, "low": 1.0, "high": 2.0, "log": false}}}');
INSERT INTO study_user_attributes VALUES(3,1,'plan','{"trials": 3, "more": 3, "done": false}');
INSERT INTO study_user_attributes VALUES(4,1,'config','{"study": {"name": "s", "direction": "maximize", "trials": 3, "first": [], "constraints": [], "sampler": {"name": "tpe", "startup_trials": 3, "multivariate": true}, "pruner": {"name": "median", "startup_trials": 5, "warmup_steps": 2, "interval_steps": 1, "min_trials": 1}, "seed": 0}, "trial": {"command": ["python", "-S", "train.py", "{x}", "{seed}"], "overrides": {}, "ranks": 2, "seeds": 1, "launcher": "mpirun", "max_minutes": 1.0, "keep": "checkpoints", "grace_seconds": 10.0, "cores": 1}, "space": {"x": {"low": 1.0, "high": 2.0}}, "objective": {"aggregate": "median", "on_divergence": "prune"}, "confirm": {"seeds": 0, "episodes": 100}}');
CREATE TABLE study_system_attributes (
	study_system_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_system_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
CREATE TABLE trials (
	trial_id INTEGER NOT NULL, 
	number INTEGER, 
	study_id INTEGER, 
	state VARCHAR(8) NOT NULL, 
	datetime_start DATETIME, 
	datetime_complete DATETIME, 
	PRIMARY KEY (trial_id), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO trials VALUES(1,0,1,'COMPLETE','2026-11-30 06:43:52.974877','2026-11-30 06:43:53.442396');
INSERT INTO trials VALUES(2,1,1,'RUNNING','2026-11-30 06:43:53.549057',NULL);
CREATE TABLE trial_user_attributes (
	trial_user_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_user_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO trial_user_attributes VALUES(1,1,'directory','"trial-00000"');
INSERT INTO trial_user_attributes VALUES(2,1,'settings','{"x": 1.5355993486273283}');
INSERT INTO trial_user_attributes VALUES(3,1,'ranks','2');
INSERT INTO trial_user_attributes VALUES(4,1,'hosts','["vm"]');
INSERT INTO trial_user_attributes VALUES(5,1,'slots','"localhost:0,1/2"');
INSERT INTO trial_user_attributes VALUES(6,1,'seeds','[1826701615]');
INSERT INTO trial_user_attributes VALUES(7,1,'outcome','"done"');
INSERT INTO trial_user_attributes VALUES(8,1,'seconds','0.5');
INSERT INTO trial_user_attributes VALUES(9,1,'values','[6.142397394509313]');
INSERT INTO trial_user_attributes VALUES(10,2,'directory','"trial-00001"');
INSERT INTO trial_user_attributes VALUES(11,2,'settings','{"x": 1.5679648968926254}');
INSERT INTO trial_user_attributes VALUES(12,2,'ranks','2');
INSERT INTO trial_user_attributes VALUES(13,2,'hosts','["vm"]');
INSERT INTO trial_user_attributes VALUES(14,2,'slots','"localhost:0,1/2"');
INSERT INTO trial_user_attributes VALUES(15,2,'seeds','[1826701615]');
CREATE TABLE trial_system_attributes (
	trial_system_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_system_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_params (
	param_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	param_name VARCHAR(512), 
	param_value FLOAT, 
	distribution_json TEXT, 
	PRIMARY KEY (param_id), 
	UNIQUE (trial_id, param_name), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO trial_params VALUES(1,1,'x',1.5355993486273282755,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 1.0, "high": 2.0, "log": false}}');
INSERT INTO trial_params VALUES(2,2,'x',1.5679648968926254148,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 1.0, "high": 2.0, "log": false}}');
CREATE TABLE trial_values (
	trial_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	value FLOAT, 
	value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_value_id), 
	UNIQUE (trial_id, objective), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO trial_values VALUES(1,1,0,6.1423973945093131021,'FINITE');
CREATE TABLE trial_intermediate_values (
	trial_intermediate_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	step INTEGER NOT NULL, 
	intermediate_value FLOAT, 
	intermediate_value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_intermediate_value_id), 
	UNIQUE (trial_id, step), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO trial_intermediate_values VALUES(1,1,1,1.5355993486273282755,'FINITE');
INSERT INTO trial_intermediate_values VALUES(2,1,2,3.071198697254656551,'FINITE');
INSERT INTO trial_intermediate_values VALUES(3,1,3,4.6067980458819848266,'FINITE');
INSERT INTO trial_intermediate_values VALUES(4,1,4,6.1423973945093131021,'FINITE');
CREATE TABLE trial_heartbeats (
	trial_heartbeat_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	heartbeat DATETIME NOT NULL, 
	PRIMARY KEY (trial_heartbeat_id), 
	UNIQUE (trial_id), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO alembic_version VALUES('v3.2.0.a');
CREATE UNIQUE INDEX ix_studies_study_name ON studies (study_name);
CREATE INDEX ix_trials_study_id ON trials (study_id);
COMMIT;
