package check

// Catalogue is every check that edgeprep knows, in the order of reports: what others depend on comes first
// in its group.
func Catalogue() []Check {
	var all []Check
	for _, group := range [][]Check{
		imageChecks(),
		imageNameChecks(),
		ownImageChecks(),
		platformChecks(),
		workloadChecks(),
		contentChecks(),
		runtimeChecks(),
		storeChecks(),
		pruneChecks(),
		archiveChecks(),
		archiveFormChecks(),
		archiveSameChecks(),
		archiveDirChecks(),
		archiveKeepChecks(),
		registryChecks(),
		endpointChecks(),
		fallbackChecks(),
		mirrorChecks(),
		mirrorServiceChecks(),
		cacheChecks(),
		storageChecks(),
		secretsChecks(),
		coldChecks(),
		bootChecks(),
		kubeletChecks(),
		hostChecks(),
		processChecks(),
		{egressCheck()},
	} {
		all = append(all, group...)
	}
	return all
}

// ByID finds a check; ok is false when there is none.
func ByID(id string) (c Check, ok bool) {
	c = byID(Catalogue(), id)
	return c, c.ID != ""
}
